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

  /// The bytes of a file: header first, the rest sorted, so that two files can be compared. What exceeds the limits is
  /// left out, least founded and oldest first.
  package var file: [UInt8] {
    let lines = limited.lines
    var total = WisdomLine.header.bytes.count &+ 1
    // In the order in which they are given up last.
    var kept: [[UInt8]] = []
    for line in lines.sorted(by: WisdomBook.precedes) {
      let bytes = line.bytes
      guard bytes.count <= WisdomLimits.lineBytes, total &+ bytes.count &+ 1 <= WisdomLimits.fileBytes else { continue }
      total = total &+ bytes.count &+ 1
      kept.append(bytes)
    }
    // Behind the checksum, which says nothing to people.
    kept.sort { $0.dropFirst(9).lexicographicallyPrecedes($1.dropFirst(9)) }
    var out: [UInt8] = []
    out.reserveCapacity(total)
    for bytes in [WisdomLine.header.bytes] + kept {
      out += bytes
      out.append(0x0a)
    }
    return out
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
