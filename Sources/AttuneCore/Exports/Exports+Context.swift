import CAttune
import CRuntime

/// Version of this library; the ABI's is in types.h.
package enum Library {
  package static let version = (major: UInt32(0), minor: UInt32(1), patch: UInt32(0))
  package static let text = "\(version.major).\(version.minor).\(version.patch)"
}

@c @implementation
public func attune_version(
  _ major: UnsafeMutablePointer<UInt32>?, _ minor: UnsafeMutablePointer<UInt32>?, _ patch: UnsafeMutablePointer<UInt32>?
) -> attune_status {
  major?.pointee = Library.version.major
  minor?.pointee = Library.version.minor
  patch?.pointee = Library.version.patch
  return attune_status(ATTUNE_OK)
}

@c @implementation
public func attune_status_name(_ code: attune_status) -> UnsafePointer<CChar>? {
  let known = Status.names.first { $0.code.rawValue == code }?.name
  let name: StaticString = known ?? (code <= attune_status(ATTUNE_E_PLUGIN) ? "E_PLUGIN" : "E_UNKNOWN")
  return UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
}

@c @implementation
public func attune_context_create(
  _ options: UnsafePointer<attune_context_options>?, _ out: UnsafeMutablePointer<OpaquePointer?>?,
  _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    guard let out else { throw Refusal(.invalid, "out", "out is NULL") }
    let context = try Context(options: options)
    let record = UnsafeMutablePointer<ContextRecord>.allocate(capacity: 1)
    record.initialize(to: ContextRecord(magic: ContextRecord.alive, owner: .passRetained(context)))
    out.pointee = OpaquePointer(record)
  }
}

@c @implementation
public func attune_context_release(_ context: OpaquePointer?) {
  guard let context, let owner = ContextRecord.find(context) else { return }
  owner.wisdom.flush()  // plans may keep the context alive until the process is gone
  let record = UnsafeMutablePointer<ContextRecord>(context)
  record.pointee.magic = 0
  record.pointee.owner.release()
  record.deallocate()
}

@c @implementation
public func attune_load(
  _ context: OpaquePointer?, _ path: UnsafePointer<CChar>?, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let context = try contextOrRefusal(context)
    try context.registry.loadFile(try CallerMemory.string(path, limit: 4095, "path"))
  }
}

@c @implementation
public func attune_describe(
  _ context: OpaquePointer?, _ what: UnsafePointer<CChar>?, _ name: UnsafePointer<CChar>?,
  _ buffer: UnsafeMutablePointer<CChar>?, _ capacity: UInt64, _ need: UnsafeMutablePointer<UInt64>?,
  _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let context = try contextOrRefusal(context)
    let topic = try CallerMemory.string(what, limit: 63, "what")
    let subject: String? = if let name { try CallerMemory.string(name, "name") } else { nil }
    let text = try Describe(context).text(topic, subject)
    let size = UInt64(text.utf8.count) + 1
    need?.pointee = size
    guard size <= capacity, let buffer else {
      throw Refusal(
        .workspace, "buffer", "buffer has \(buffer == nil ? 0 : capacity) bytes, expected \(size)",
        detail: (Int64(clamping: size), Int64(clamping: capacity)))
    }
    var i = 0
    for b in text.utf8 {
      buffer[i] = CChar(bitPattern: b)
      i += 1
    }
    buffer[i] = 0
  }
}

/// Runs a cold export: a refusal becomes the caller's record and the code.
func guarded(_ record: UnsafeMutablePointer<attune_error>?, _ body: () throws(Refusal) -> Void) -> attune_status {
  do throws(Refusal) {
    try body()
    return attune_status(ATTUNE_OK)
  } catch { return ErrorRecord.fill(record, error) }
}

func contextOrRefusal(_ handle: OpaquePointer?) throws(Refusal) -> Context {
  guard let handle else { throw Refusal(.invalid, "context", "context is NULL") }
  guard let c = ContextRecord.find(handle) else {
    throw Refusal(.invalid, "context", "context is no context, or was released")
  }
  return c
}
