import CAttune

/// A status code of error.h as a Swift value; unknown codes of plugins are legal.
package struct Status: RawRepresentable, Sendable, Hashable {
  package var rawValue: attune_status
  package init(rawValue: attune_status) { self.rawValue = rawValue }
  private init(_ code: Int) { rawValue = attune_status(truncatingIfNeeded: code) }

  package static let ok = Status(ATTUNE_OK), invalid = Status(ATTUNE_E_INVALID)
  package static let unsupported = Status(ATTUNE_E_UNSUPPORTED), notFound = Status(ATTUNE_E_NOT_FOUND)
  package static let shape = Status(ATTUNE_E_SHAPE), dtype = Status(ATTUNE_E_DTYPE)
  package static let layout = Status(ATTUNE_E_LAYOUT), param = Status(ATTUNE_E_PARAM)
  package static let noMemory = Status(ATTUNE_E_NOMEM), workspace = Status(ATTUNE_E_WORKSPACE)
  package static let abi = Status(ATTUNE_E_ABI), load = Status(ATTUNE_E_LOAD), denied = Status(ATTUNE_E_DENIED)
  package static let io = Status(ATTUNE_E_IO), corrupt = Status(ATTUNE_E_CORRUPT)
  package static let notTuned = Status(ATTUNE_E_NOT_TUNED), cancelled = Status(ATTUNE_E_CANCELLED)
  package static let `internal` = Status(ATTUNE_E_INTERNAL), ambiguous = Status(ATTUNE_E_AMBIGUOUS)
  package static let plugin = Status(ATTUNE_E_PLUGIN)

  /// Names by code, without the prefix ATTUNE_. Static strings, so that a C caller may keep the pointer.
  package static let names: [(code: Status, name: StaticString)] = [
    (.ok, "OK"), (.invalid, "E_INVALID"), (.unsupported, "E_UNSUPPORTED"), (.notFound, "E_NOT_FOUND"),
    (.shape, "E_SHAPE"), (.dtype, "E_DTYPE"), (.layout, "E_LAYOUT"), (.param, "E_PARAM"), (.noMemory, "E_NOMEM"),
    (.workspace, "E_WORKSPACE"), (.abi, "E_ABI"), (.load, "E_LOAD"), (.denied, "E_DENIED"), (.io, "E_IO"),
    (.corrupt, "E_CORRUPT"), (.notTuned, "E_NOT_TUNED"), (.cancelled, "E_CANCELLED"), (.internal, "E_INTERNAL"),
    (.ambiguous, "E_AMBIGUOUS"), (.plugin, "E_PLUGIN"),
  ]
  package var name: String { Status.names.first { $0.code == self }?.name.description ?? "E_\(rawValue)" }
}

/// Why something was refused: what ends up in an `attune_error`. Thrown on cold paths only.
package struct Refusal: Error, Sendable, Equatable {
  package enum Source: UInt32, Sendable { case host = 1, plugin, kernel, system }
  package var code: Status
  package var argument: String  // tensor or parameter, "" none
  package var message: String
  package var detail: (Int64, Int64)
  package var source: Source

  package init(
    _ code: Status, _ argument: String = "", _ message: String, detail: (Int64, Int64) = (0, 0), source: Source = .host
  ) {
    self.code = code
    self.argument = argument
    self.message = message
    self.detail = detail
    self.source = source
  }
  package static func == (a: Refusal, b: Refusal) -> Bool {
    a.code == b.code && a.argument == b.argument && a.message == b.message && a.detail == b.detail
  }
}
