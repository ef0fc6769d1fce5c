import Synchronization

/// The memory of the tuner: what was measured on this CPU, kept in memory and in one file. Any thread.
package final class WisdomStore: @unchecked Sendable {
  private struct State {
    var records: [WisdomKey: WisdomRecord] = [:]
    var quarantine: Set<QuarantineRecord> = []
    var machine: MachineRecord?
  }
  private let state = Mutex(State())

  /// path nil: memory only. readOnly: searched after the own file, never written. cpu: whose lines count.
  package init(path: String?, readOnly: [String], cpu: String, log: Log) {}

  /// The record of a key: from the own file first, then from the read-only ones.
  package func find(_ key: WisdomKey) -> WisdomRecord? { state.withLock { $0.records[key] } }

  /// All records of a family, for finding neighbours.
  package func family(_ family: String, op: String) -> [WisdomRecord] {
    state.withLock { $0.records.values.filter { $0.key.family == family && $0.key.op == op } }
  }

  package func keep(_ record: WisdomRecord) { state.withLock { $0.records[record.key] = record } }

  package func quarantine(_ record: QuarantineRecord) { state.withLock { _ = $0.quarantine.insert(record) } }

  package func quarantined(op: String, entry: String, build: String) -> [QuarantineRecord] {
    state.withLock { $0.quarantine.filter { $0.op == op && $0.entry == entry && $0.build == build } }
  }

  /// Lets quarantined candidates of an operator (nil: of all) be tried again.
  package func forgive(op: String?) {
    state.withLock { $0.quarantine = $0.quarantine.filter { op != nil && $0.op != op } }
  }

  package var machine: MachineRecord? {
    get { state.withLock { $0.machine } }
    set { state.withLock { $0.machine = newValue } }
  }

  /// Saves what is not saved yet.
  package func flush() {}
}
