extension Context {
  /// The context behind a handle of the C API, for programs that link this module: they describe problems with its own
  /// types where the C API offers nothing (sizes to shapes, generated data). nil when `handle` is no context. Any thread.
  package static func behind(_ handle: OpaquePointer) -> Context? { ContextRecord.find(handle) }
}
