import Glibc

/// What one file of wisdom says, or several joined. A value; knows nothing of files.
package struct WisdomBook: Equatable, Sendable {
  /// What is known about one CPU.
  package struct Shelf: Equatable, Sendable {
    package struct Family: Hashable, Sendable {
      package let op: String, family: String
    }
    package private(set) var tuned: [Family: [[WisdomKey.Size]: WisdomRecord]] = [:]
    /// By everything but the date.
    package private(set) var quarantine: [QuarantineRecord: QuarantineRecord] = [:]
    package private(set) var machine: MachineRecord?

    package func find(_ key: WisdomKey) -> WisdomRecord? { tuned[Family(op: key.op, family: key.family)]?[key.sizes] }
    package var records: [WisdomRecord] { tuned.values.flatMap(\.values) }
    package var count: Int { tuned.values.reduce(0) { $0 &+ $1.count } }
    package var isEmpty: Bool { tuned.isEmpty && quarantine.isEmpty && machine == nil }

    /// true: something became known by it.
    mutating func add(_ record: WisdomRecord) -> Bool {
      let family = Family(op: record.key.op, family: record.key.family)
      let known = tuned[family]?[record.key.sizes]
      let joined = known?.joined(record) ?? record.canonical
      guard joined != known else { return false }
      tuned[family, default: [:]][record.key.sizes] = joined
      return true
    }

    mutating func add(_ record: QuarantineRecord) -> Bool {
      var identity = record
      identity.date = 0
      if let known = quarantine[identity], known.date >= record.date { return false }
      quarantine[identity] = record
      return true
    }

    mutating func add(_ record: MachineRecord) -> Bool {
      let joined = machine?.joined(record) ?? record
      guard joined != machine else { return false }
      machine = joined
      return true
    }

    /// Drops the records of an operator, nil: of all.
    mutating func forget(op: String?) { tuned = tuned.filter { op != nil && $0.key.op != op } }
    mutating func forgive(op: String?) { quarantine = quarantine.filter { op != nil && $0.value.op != op } }

    fileprivate mutating func keep(_ records: ArraySlice<WisdomRecord>, _ quarantined: ArraySlice<QuarantineRecord>) {
      (tuned, quarantine) = ([:], [:])
      for r in records { _ = add(r) }
      for q in quarantined { _ = add(q) }
    }
  }

  package private(set) var shelves: [String: Shelf] = [:]  // by CPU
  package private(set) var unknown: Set<String> = []

  package init() {}

  package var isEmpty: Bool { unknown.isEmpty && shelves.values.allSatisfy(\.isEmpty) }

  /// true: something became known by the line.
  @discardableResult
  package mutating func add(_ line: WisdomLine) -> Bool {
    switch line {
    case .header: false
    case .tuned(let cpu, let r): shelves[cpu, default: Shelf()].add(r)
    case .quarantine(let cpu, let q): shelves[cpu, default: Shelf()].add(q)
    case .machine(let cpu, let m): shelves[cpu, default: Shelf()].add(m)
    case .unknown(let text): unknown.insert(text).inserted
    }
  }

  package mutating func join(_ other: WisdomBook) {
    if isEmpty {
      self = other
    } else {
      for line in other.lines { add(line) }
    }
  }

  /// Everything but the header, in no order.
  package var lines: [WisdomLine] {
    shelves.flatMap { cpu, shelf in
      shelf.records.map { .tuned(cpu: cpu, $0) } + shelf.quarantine.values.map { .quarantine(cpu: cpu, $0) }
        + (shelf.machine.map { [.machine(cpu: cpu, $0)] } ?? [])
    } + unknown.map { .unknown($0) }
  }

  package mutating func forget(op: String?) {
    for cpu in shelves.keys { shelves[cpu]?.forget(op: op) }
  }

  package mutating func forgive(op: String?) {
    for cpu in shelves.keys { shelves[cpu]?.forgive(op: op) }
  }

  package func knows(op: String) -> Bool {
    shelves.values.contains { shelf in
      shelf.tuned.keys.contains { $0.op == op } || shelf.quarantine.values.contains { $0.op == op }
    }
  }

  // MARK: writing

  package var file: [UInt8] { file(limit: WisdomLimits.fileBytes) }

  /// The bytes of a file: header first, the rest sorted, so that two files can be compared. What exceeds the limits is
  /// left out, least founded and oldest first.
  func file(limit: Int) -> [UInt8] {
    let header = WisdomLine.header.bytes
    let lines = limited.lines.map { (line: $0, bytes: $0.bytes) }.filter { $0.bytes.count <= WisdomLimits.lineBytes }
    var total = lines.reduce(header.count &+ 1) { $0 &+ $1.bytes.count &+ 1 }
    var kept = lines.map(\.bytes)
    if total > limit {
      let dearest = lines.sorted { WisdomBook.precedes($0.line, $1.line) }
      var count = dearest.count
      while total > limit, count > 0 {
        count = count &- 1
        total = total &- dearest[count].bytes.count &- 1
      }
      kept = dearest.prefix(count).map(\.bytes)
    }
    kept.sort(by: WisdomBook.isSmaller)
    var out: [UInt8] = []
    out.reserveCapacity(total)
    for bytes in [header] + kept {
      out += bytes
      out.append(0x0a)
    }
    return out
  }

  /// Bytewise, behind the checksums, which say nothing to people.
  private static func isSmaller(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    a.withUnsafeBytes { a in
      b.withUnsafeBytes { b in
        let (x, y) = (a.dropFirst(9), b.dropFirst(9))
        guard let p = UnsafeRawBufferPointer(rebasing: x).baseAddress,
          let q = UnsafeRawBufferPointer(rebasing: y).baseAddress
        else { return x.isEmpty && !y.isEmpty }
        let order = memcmp(p, q, min(x.count, y.count))
        return order == 0 ? x.count < y.count : order < 0
      }
    }
  }

  /// Machines and quarantine are few and precious, records can be measured again.
  private static func precedes(_ a: WisdomLine, _ b: WisdomLine) -> Bool {
    guard case .tuned(_, let x) = a else {
      if case .tuned = b { return true }
      return false
    }
    guard case .tuned(_, let y) = b else { return false }
    return isWorthMore(x, y)
  }

  private static func isWorthMore(_ a: WisdomRecord, _ b: WisdomRecord) -> Bool {
    a.rigor == b.rigor ? a.date > b.date : a.rigor > b.rigor
  }

  /// Holds a book in memory to the limits, with some room, so that a full one is not sorted for every record.
  mutating func trim() {
    let slack = WisdomLimits.records / 8
    for (_, shelf) in shelves
    where shelf.count > WisdomLimits.records &+ slack
      || shelf.quarantine.count > WisdomLimits.quarantine &+ slack
    {
      self = limited
      return
    }
  }

  /// At most so many records per CPU, and the other limits.
  private var limited: WisdomBook {
    var out = self
    for (cpu, shelf) in shelves
    where shelf.count > WisdomLimits.records || shelf.quarantine.count > WisdomLimits.quarantine {
      let best = shelf.records.sorted(by: WisdomBook.isWorthMore).prefix(WisdomLimits.records)
      let latest = shelf.quarantine.values.sorted { $0.date > $1.date }.prefix(WisdomLimits.quarantine)
      out.shelves[cpu]?.keep(best, latest)
    }
    if out.shelves.count > WisdomLimits.cpus {
      func latest(_ shelf: Shelf) -> Int64 { shelf.records.map(\.date).max() ?? 0 }
      let kept = out.shelves.sorted { latest($0.value) > latest($1.value) }.prefix(WisdomLimits.cpus)
      out.shelves = Dictionary(uniqueKeysWithValues: kept.map { ($0.key, $0.value) })
    }
    if out.unknown.count > WisdomLimits.unknownLines {
      out.unknown = Set(out.unknown.sorted().prefix(WisdomLimits.unknownLines))
    }
    return out
  }
}
