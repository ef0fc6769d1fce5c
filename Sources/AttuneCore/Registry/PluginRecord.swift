/// One file that was looked at, and what became of it. Losers and refused ones stay listed with the reason.
package struct PluginRecord: Sendable {
  package enum Status: Sendable {
    case loaded(LoadedPlugin)
    /// Something better was taken instead; the reason.
    case shadowed(String)
    case refused(Refusal)
  }
  package let path: String
  package let rank: Int
  package var id: String?, version: String?  // of the note, or of the table once loaded
  package var identity: FileStatus.Identity?
  package var status: Status
  package var warnings: [String] = []
  package var operators: [OperatorRecord] = []

  package var name: String { Path.name(of: path) }
  package var plugin: LoadedPlugin? {
    if case .loaded(let plugin) = status { plugin } else { nil }
  }
}

/// One operator of a loaded plugin.
package struct OperatorRecord: Sendable {
  package enum Status: Sendable {
    case active(Registration)
    /// Usable as `op@plugin` (unless that is taken too); the reason why not by its name alone.
    case shadowed(Registration, String)
    case refused(Refusal)

    package var registration: Registration? {
      switch self {
      case .active(let r), .shadowed(let r, _): r
      case .refused: nil
      }
    }
  }
  package let id: String
  package var status: Status
}

/// Which plugin's operator a name means: lower rank, then higher version, then name (ABI.md section 11).
struct Resolution {
  /// By "op" and "op@plugin.id".
  private(set) var names: [String: Result<Registration, Refusal>] = [:]
  private(set) var records: [PluginRecord]

  private struct Offer {
    let record: Int, index: Int, rank: Int, path: String
    let registration: Registration
    var id: String { registration.op.id }
    var plugin: String { registration.plugin.id }
    var version: Descriptor.Version { registration.op.descriptor.version }

    func isBetter(than other: Offer) -> Bool {
      if rank != other.rank { return rank < other.rank }
      if version != other.version { return version > other.version }
      let (mine, theirs) = (registration.plugin.version, other.registration.plugin.version)
      if plugin == other.plugin, mine != theirs { return mine > theirs }
      return Path.name(of: path).utf8.lexicographicallyPrecedes(Path.name(of: other.path).utf8)
    }
    /// Nothing but the file's name speaks for one of them, and they are not the same plugin.
    func isRival(of other: Offer) -> Bool {
      rank == other.rank && version == other.version && plugin != other.plugin
    }
  }

  init(_ records: [PluginRecord]) {
    self.records = records
    var offers: [String: [Offer]] = [:]
    for (r, record) in records.enumerated() {
      for (i, op) in record.operators.enumerated() {
        guard let registration = op.status.registration else { continue }
        offers[op.id, default: []].append(
          Offer(record: r, index: i, rank: record.rank, path: record.path, registration: registration))
      }
    }
    for (_, list) in offers { decide(list.sorted { $0.isBetter(than: $1) }) }
  }

  private mutating func decide(_ sorted: [Offer]) {
    guard let best = sorted.first else { return }
    let rivals = sorted.filter { $0.isRival(of: best) }
    for offer in sorted {
      let key = "\(offer.id)@\(offer.plugin)"
      if names[key] == nil { names[key] = .success(offer.registration) }
    }
    if rivals.isEmpty {
      names[best.id] = .success(best.registration)
      mark(best, .active(best.registration))
    } else {
      let choices = ([best] + rivals).map { "\($0.id)@\($0.plugin)" }.joined(separator: ", ")
      let refusal = Refusal(.ambiguous, "op", "several plugins offer \(best.id) \(best.version): say one of \(choices)")
      names[best.id] = .failure(refusal)
      mark(best, .shadowed(best.registration, refusal.message))
    }
    for offer in sorted.dropFirst() {
      let reason =
        rivals.contains { $0.record == offer.record && $0.index == offer.index }
        ? "ambiguous with \(best.id)@\(best.plugin) of \(best.path)"
        : "\(best.id) \(best.version) of \(best.path) comes first"
      mark(offer, .shadowed(offer.registration, reason))
    }
  }

  private mutating func mark(_ offer: Offer, _ status: OperatorRecord.Status) {
    records[offer.record].operators[offer.index].status = status
  }
}
