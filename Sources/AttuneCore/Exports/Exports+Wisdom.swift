import CAttune

@c @implementation
public func attune_wisdom_import(
  _ context: OpaquePointer?, _ path: UnsafePointer<CChar>?, _ report: UnsafeMutablePointer<attune_wisdom_report>?,
  _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let context = try contextOrRefusal(context)
    let path = try CallerMemory.string(path, limit: 4095, "path")
    if let report { _ = try CallerMemory.output(report, "report") }
    let result = try context.wisdom.importFile(path)
    guard let report else { return }
    report.pointee.accepted = UInt32(clamping: result.accepted)
    report.pointee.duplicate = UInt32(clamping: result.duplicate)
    report.pointee.foreign_cpu = UInt32(clamping: result.foreignCPU)
    report.pointee.damaged = UInt32(clamping: result.damaged)
    report.pointee.unknown = UInt32(clamping: result.unknown)
  }
}

@c @implementation
public func attune_wisdom_export(
  _ context: OpaquePointer?, _ path: UnsafePointer<CChar>?, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let context = try contextOrRefusal(context)
    try context.wisdom.export(to: try CallerMemory.string(path, limit: 4095, "path"))
  }
}

@c @implementation
public func attune_wisdom_forget(
  _ context: OpaquePointer?, _ op: UnsafePointer<CChar>?, _ error: UnsafeMutablePointer<attune_error>?
) -> attune_status {
  guarded(error) { () throws(Refusal) in
    let context = try contextOrRefusal(context)
    guard let op else { return try context.wisdom.forget(op: nil) }
    let id = try CallerMemory.string(op, "op")
    // A file may know operators whose plugins are not here.
    if !context.wisdom.knows(op: id) { _ = try context.registry.find(id) }
    try context.wisdom.forget(op: id)
  }
}
