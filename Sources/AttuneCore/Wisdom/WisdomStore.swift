import CRuntime
import Glibc
import Synchronization

/// The memory of the tuner: what was measured on this CPU, in memory and in one file. [any-thread]
///
/// Nothing on disk can make a call fail: a file that cannot be read or written costs one line of the log, and what is
/// learnt stays in memory. Records that other processes write become visible when something is asked for that is not
/// known, at most a second later.
package final class WisdomStore: @unchecked Sendable {
  /// How it stands, for people.
  package struct Status: Sendable {
    package var path: String?
    package var cpu = ""
    package var records = 0, quarantined = 0
    package var foreign = 0  // records of other CPUs
    package var damaged = 0  // lines, when the file was last read
    package var unsaved = 0
    /// Why what is learnt stays in memory; nil: it does not.
    package var reason: String?
    package var readOnly: [(path: String, records: Int, reason: String?)] = []
  }

  /// What `memoryLock` guards. `book` holds everything known, `pending` what the file does not have yet.
  struct Memory {
    var book = WisdomBook()
    var pending = WisdomBook()
    var readOnly: [(path: String, book: WisdomBook, reason: String?)] = []
    var isRead = false
    var seen: FileStatus.Identity?
    var lastLook: Int64 = 0  // of crt_now_ns
    var nextSave: Int64 = 0
    var damaged = 0
    var readReason: String?, saveReason: String?
    var hasComplained = false, hasToldDamage = false
  }

  package let cpu: String
  let file: WisdomFile?
  let makesDirectory: Bool
  let readOnly: [String]
  let log: Log
  private let absence: String
  private let memoryLock = ProcessLock()
  private var memory: UnsafeMutablePointer<Memory>
  /// Held while the disk is at work, never inside `memoryLock`.
  let diskLock = ProcessLock()

  /// path nil: memory only, because of `absence`. readOnly: searched after the own file, never written. cpu: whose
  /// records count. makesDirectory: the file's directory is the library's own and made when it is missing. Reads
  /// nothing yet.
  package init(
    path: String?, readOnly: [String], cpu: String, log: Log, makesDirectory: Bool = false,
    absence: String = "no file was asked for"
  ) {
    file = path.map { WisdomFile(path: $0) }
    (self.readOnly, self.cpu, self.log, self.makesDirectory) = (readOnly, cpu, log, makesDirectory)
    self.absence = absence
    memory = .allocate(capacity: 1)
    memory.initialize(to: Memory())
  }

  deinit {
    flush()
    memory.deinitialize(count: 1)
    memory.deallocate()
  }

  func withMemory<R>(_ body: (inout Memory) -> R) -> R {
    var claim = memoryLock.acquire(limit: .max)
    while claim == nil { claim = memoryLock.acquire(limit: .max) }
    defer { memoryLock.release() }
    if claim == .inherited {
      // A thread that is not here was changing it: what is there is neither used nor freed. The file knows most of it.
      memory = .allocate(capacity: 1)
      memory.initialize(to: Memory())
    }
    return body(&memory.pointee)
  }

  // MARK: asking

  /// The record of a key: of the own file, then of the read-only ones in their order.
  package func find(_ key: WisdomKey) -> WisdomRecord? {
    asked { $0.find(key) }
  }

  /// All records of a family, for finding neighbours: of the first file that has any.
  package func family(_ family: String, op: String) -> [WisdomRecord] {
    let key = WisdomBook.Shelf.Family(op: op, family: family)
    return asked { $0.tuned[key].map { Array($0.values) } } ?? []
  }

  /// Candidates of an entry that must not be tried in this build of its plugin.
  package func quarantined(op: String, entry: String, build: String) -> [QuarantineRecord] {
    read()
    return withMemory { m in
      var out: [QuarantineRecord: QuarantineRecord] = [:]
      for book in [m.book] + m.readOnly.map(\.book) {
        for (identity, q) in book.shelves[cpu]?.quarantine ?? [:]
        where q.op == op && q.entry == entry && q.build == build { out[identity] = q }
      }
      return Array(out.values)
    }
  }

  /// What the cost model knows about this machine.
  package var machine: MachineRecord? {
    get { asked { $0.machine } }
    set {
      guard let newValue else { return }
      read()
      keep(.machine(cpu: cpu, newValue)) { () throws(WisdomFault) in try WisdomCheck.check(newValue) }
    }
  }

  private func asked<R>(_ question: (WisdomBook.Shelf) -> R?) -> R? {
    read()
    if let answer = answer(question) { return answer }
    return lookAgain() ? answer(question) : nil
  }

  private func answer<R>(_ question: (WisdomBook.Shelf) -> R?) -> R? {
    withMemory { m in
      if let answer = m.book.shelves[cpu].flatMap(question) { return answer }
      for other in m.readOnly {
        if let answer = other.book.shelves[cpu].flatMap(question) { return answer }
      }
      return nil
    }
  }

  // MARK: keeping

  /// Joins a record into what is known. Its verdict counts as made in knowledge of an earlier one of the same key.
  package func keep(_ record: WisdomRecord) {
    read()
    let known = withMemory { $0.book.shelves[cpu]?.find(record.key) }
    let record = known.map(record.knowing) ?? record.canonical
    keep(.tuned(cpu: cpu, record)) { () throws(WisdomFault) in try WisdomCheck.check(record) }
  }

  package func quarantine(_ record: QuarantineRecord) {
    read()
    keep(.quarantine(cpu: cpu, record)) { () throws(WisdomFault) in try WisdomCheck.check(record) }
  }

  private func keep(_ line: WisdomLine, _ check: () throws(WisdomFault) -> Void) {
    do throws(WisdomFault) {
      try check()
    } catch {
      log(.error, "wisdom: a record is not kept: \(error.sentence)")
      return
    }
    let isDue = withMemory { m in
      guard m.book.add(line) else { return false }
      m.book.trim()
      guard file != nil else { return false }
      m.pending.add(line)
      m.pending.trim()
      return crt_now_ns() >= m.nextSave
    }
    if isDue { _ = save() }
  }

  /// Lets quarantined candidates of an operator (nil: of all) be tried again.
  package func forgive(op: String?) {
    if let fault = drop({ $0.forgive(op: op) }) {
      log(.warning, "wisdom: \(fault.sentence): nothing is forgiven there")
    }
  }

  /// Drops something from memory and from the file. The fault: the file still has it.
  func drop(_ edit: (inout WisdomBook) -> Void) -> WisdomFileFault? {
    read()
    withMemory { m in
      edit(&m.book)
      edit(&m.pending)
    }
    return save(isPatient: true, isForced: true, edit)
  }

  package var status: Status {
    read()
    return withMemory { m in
      let own = m.book.shelves[cpu] ?? WisdomBook.Shelf()
      var s = Status()
      (s.path, s.cpu, s.records, s.quarantined) = (file?.path, cpu, own.count, own.quarantine.count)
      s.foreign = m.book.shelves.reduce(0) { $1.key == cpu ? $0 : $0 &+ $1.value.count }
      (s.damaged, s.unsaved) = (m.damaged, m.pending.lines.count)
      s.reason = file == nil ? absence : m.readReason ?? m.saveReason
      s.readOnly = m.readOnly.map { ($0.path, $0.book.shelves[cpu]?.count ?? 0, $0.reason) }
      return s
    }
  }
}
