import CAttune

/// Kernels, with their arguments and knobs. A kernel that cannot be understood stays in the list, marked as refused:
/// the others work, and a user can be told why this one does not.
extension DescriptorReader {
  static func kernels(_ span: attune_span) throws(Refusal) -> [Descriptor.Kernel] {
    let (addresses, stride) = try Untrusted.elements(
      span, of: attune_kernel.self, "kernels", limit: Limits.kernels)
    return addresses.enumerated().map { i, address in
      var out = Descriptor.Kernel()
      out.name = "#\(i)"
      do throws(Refusal) {
        try readKernel(address, stride, into: &out)
      } catch {
        out.refused = error.message
      }
      return out
    }
  }

  private static func readKernel(
    _ p: UnsafeRawPointer, _ stride: Int, into out: inout Descriptor.Kernel
  ) throws(Refusal) {
    // The name comes first, so that a kernel with unknown fields is still listed under it.
    let nameOffset = MemoryLayout<attune_kernel>.offset(of: \.name) ?? 0
    let namePointer = p.loadUnaligned(fromByteOffset: nameOffset, as: UInt.self)
    if p.loadUnaligned(as: UInt32.self) >= UInt32(attune_kernel.minimumSize) {
      out.name = try name(UnsafePointer(bitPattern: namePointer))
    }
    let raw = try Untrusted.structure(p, as: attune_kernel.self, stride: stride)
    try Untrusted.flags(
      raw.flags, known: ATTUNE_REFERENCE | ATTUNE_INVARIANT | ATTUNE_REDUCED | ATTUNE_OWNS_THREADS, "flags")
    out.isReference = has(raw.flags, ATTUNE_REFERENCE)
    out.isInvariant = has(raw.flags, ATTUNE_INVARIANT)
    out.isReduced = has(raw.flags, ATTUNE_REDUCED)
    out.ownsThreads = has(raw.flags, ATTUNE_OWNS_THREADS)
    (out.revision, out.minAlign, out.efficiency) = (raw.revision, raw.min_align, raw.efficiency)
    (out.deviceType, out.arch, out.isa) = (raw.device_type, raw.arch, raw.isa)
    (out.run, out.native, out.user) = (raw.run, raw.native, raw.user)
    out.when = try optional(raw.when, "when")
    out.knobWhen = try optional(raw.knob_when, "knob_when")
    out.tasks = try optional(raw.tasks, "tasks")
    out.workspace = try optional(raw.workspace, "workspace")
    out.flops = try optional(raw.flops, "flops")
    out.bytes = try optional(raw.bytes, "bytes")
    out.doc = try text(raw.doc, "doc")
    out.args = try all(raw.args, "args", Limits.arguments, argument)
    out.knobs = try all(raw.knobs, "knobs", Limits.knobs, knob)
  }

  private static func argument(_ raw: attune_arg) throws(Refusal) -> Descriptor.Argument {
    Descriptor.Argument(
      kind: try choice(raw.kind, as: Descriptor.Argument.Kind.self, "kind"),
      ctype: try choice(raw.ctype, as: Descriptor.Argument.CType.self, "ctype"), dim: raw.dim,
      name: try text(raw.name, "name", limit: Limits.expression))
  }

  private static func knob(_ raw: attune_knob) throws(Refusal) -> Descriptor.Knob {
    var out = Descriptor.Knob()
    out.name = try name(raw.name)
    out.doc = try text(raw.doc, "doc")
    try Untrusted.zero(raw.reserved, "reserved")
    let count = Int(raw.n_values)
    guard (1...Limits.knobValues).contains(count) else {
      throw Refusal(
        .load, "n_values", "n_values is \(count), expected 1 to \(Limits.knobValues)",
        detail: (Int64(Limits.knobValues), Int64(count)))
    }
    guard raw.def < raw.n_values else {
      throw Refusal(
        .load, "def", "def is \(raw.def), expected less than \(count)", detail: (Int64(count), Int64(raw.def)))
    }
    guard let values = UnsafeRawPointer(raw.values) else {
      throw Refusal(.load, "values", "values is NULL, expected \(count) numbers")
    }
    out.values = (0..<count).map { values.loadUnaligned(fromByteOffset: $0 &* 8, as: Int64.self) }
    out.def = Int(raw.def)
    return out
  }
}
