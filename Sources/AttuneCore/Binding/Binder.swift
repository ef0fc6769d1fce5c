import CAttune

/// A tensor as a problem names it. No shape: an output that is wanted but not yet allocated.
package struct GivenTensor: Sendable {
  package var name: String, dtype: DType?, shape: [Int64]?
  package init(_ name: String, _ dtype: DType? = nil, _ shape: [Int64]? = nil) {
    (self.name, self.dtype, self.shape) = (name, dtype, shape)
  }
}

/// A parameter as a problem gives it; an enum by its word.
package enum ParamValue: Sendable, Equatable {
  case flag(Bool), integer(Int64), real(Double), word(String)
}

/// A problem whose sizes are known: the result of steps 1 to 9 of ABI.md "Binding".
package final class BoundProblem: @unchecked Sendable {  // immutable after binding
  package let op: Operator, entry: Entry
  package let present: UInt64
  /// Entry index of each tensor of the problem, in the problem's order.
  package let order: [Int]
  package let program: BindProgram
  package let storage: BindStorage
  package let bound: UInt64
  package let flops: Int64, bytes: Int64

  fileprivate init(
    op: Operator, entry: Entry, present: UInt64, order: [Int], program: BindProgram, storage: BindStorage,
    bound: UInt64,
    flops: Int64, bytes: Int64
  ) {
    (self.op, self.entry, self.present, self.order) = (op, entry, present, order)
    (self.program, self.storage, self.bound, self.flops, self.bytes) = (program, storage, bound, flops, bytes)
  }

  package func isPresent(_ tensor: Int) -> Bool { present >> UInt64(tensor) & 1 == 1 }
  package func shape(_ tensor: Int) -> [Int64] { storage.shape(tensor) ?? [] }
  package func dtype(_ tensor: Int) -> DType { DType(rawValue: storage.dtypes[tensor]) ?? .f32 }
  package func symbol(_ index: Int) -> Int64? { bound >> UInt64(index) & 1 == 1 ? storage.symbols[index] : nil }

  /// The environment of this problem, for expressions of its kernels.
  package var environment: Environment {
    var frame = storage.frame
    frame.present = present
    frame.bound = bound
    return frame.environment
  }
}

/// Binding as a plan does it: names, parameters, presence and types here, sizes by `BindProgram`.
package enum Binder {
  package static func bind(
    op: Operator, entry name: String, tensors: [GivenTensor], params: [(name: String, value: ParamValue)]
  ) throws(Refusal) -> BoundProblem {
    guard let entry = op.entry(named: name) else {
      let known = op.entries.map(\.name).joined(separator: ", ")
      throw Refusal(.notFound, "entry", "\(op.id) has no entry \(name); it has \(known)")
    }
    let at = "\(op.id) \(name)"
    let storage = BindStorage()

    // 1 names
    var present: UInt64 = 0
    var order: [Int] = []
    for t in tensors {
      guard let i = entry.tensorIndex(t.name) else {
        let hint = nearest(t.name, entry.tensors.map(\.spec.name)).map { "; did you mean \($0)?" } ?? ""
        throw Refusal(.invalid, t.name, "\(at) has no tensor \(t.name)\(hint)")
      }
      guard present >> UInt64(i) & 1 == 0 else {
        throw Refusal(.invalid, t.name, "\(at): tensor \(t.name) is given twice")
      }
      present |= 1 << UInt64(i)
      order.append(i)
    }
    // 2 parameters
    try Parameters.store(params, of: op, entry: at, into: storage.params)
    // what expressions see
    for (t, i) in zip(tensors, order) {
      if let d = t.dtype { storage.dtypes[i] = d.rawValue }
      guard let s = t.shape else { continue }
      guard s.count <= 8 else {
        throw Refusal(
          .shape, t.name, "\(at): \(t.name) has rank \(s.count), at most 8 are allowed", detail: (8, Int64(s.count)))
      }
      for (d, x) in s.enumerated() where x < 0 {
        throw Refusal(.shape, t.name, "\(at): \(t.name) dim \(d) is \(x), expected 0 or more", detail: (0, x))
      }
      storage.setShape(i, s)
    }
    var frame = storage.frame
    frame.present = present
    var env = frame.environment
    // 3 presence
    for (i, model) in entry.tensors.enumerated() {
      let given = present >> UInt64(i) & 1 == 1
      let n = model.spec.name
      if given {
        if let allowed = model.allowed, try allowed.cold(&env, at) == 0 {
          throw Refusal(
            .invalid, n, "\(at): tensor \(n) is given, but not used in this mode (allowed: \(allowed.text))")
        }
        if storage.ranks[i] < 0, !model.isOutput {
          throw Refusal(.invalid, n, "\(at): tensor \(n) is an input and needs a shape")
        }
      } else {
        let needed: Bool = if let e = model.needed { try e.cold(&env, at) != 0 } else { true }
        if needed {
          let why = model.needed.map { " (needed: \($0.text))" } ?? ""
          throw Refusal(.invalid, n, "\(at): tensor \(n) is missing\(why)")
        }
      }
    }
    // 4 storage types
    try chooseTypes(entry, present, storage, at)
    // 5 to 9 sizes
    frame = storage.frame
    frame.present = present
    let program = try BindProgram(entry: entry, op: op, present: present, storage: storage)
    try check(program.run(&frame, complete: false), program, frame, op)
    try makeShapes(program, present, &frame, storage, at)
    try check(program.run(&frame, complete: true), program, frame, op)
    for (i, model) in entry.tensors.enumerated() where present >> UInt64(i) & 1 == 1 {
      guard byteCount(storage.shape(i) ?? [], storage.dtypes[i]) != nil else {
        throw Refusal(.shape, model.spec.name, "\(at): \(model.spec.name) is larger than any memory")
      }
    }
    env = frame.environment
    let flops = try entry.flops.cold(&env, at)
    var bytes: Int64 = 0
    if let e = entry.bytes {
      bytes = try e.cold(&env, at)
    } else {
      for i in entry.tensors.indices where present >> UInt64(i) & 1 == 1 {
        let (sum, over) = bytes.addingReportingOverflow(byteCount(storage.shape(i) ?? [], storage.dtypes[i]) ?? 0)
        bytes = over ? .max : sum
      }
    }
    guard flops >= 0, bytes >= 0 else { throw Refusal(.shape, "", "\(at): the cost of this problem is negative") }
    return BoundProblem(
      op: op, entry: entry, present: present, order: order, program: program, storage: storage, bound: frame.bound,
      flops: flops, bytes: bytes)
  }

  /// One type for every `dtype_var`; a requested output without a type gets that of its var, or the lowest of its set.
  private static func chooseTypes(_ entry: Entry, _ present: UInt64, _ storage: BindStorage, _ at: String)
    throws(Refusal)
  {
    func refuse(_ name: String, _ d: DType, _ expected: [DType]) -> Refusal {
      let list = expected.map(\.name).joined(separator: " or ")
      return Refusal(
        .dtype, name, "\(at): \(name) is \(d.name), expected \(list)",
        detail: (Int64(expected.first?.rawValue ?? 0), Int64(d.rawValue)))
    }
    // A type that no call may have is the fault of its tensor, not of the next one that should match it.
    for (i, model) in entry.tensors.enumerated() where present >> UInt64(i) & 1 == 1 {
      let allowed = DType.set(model.spec.dtypes)
      if let d = DType(rawValue: storage.dtypes[i]), !allowed.contains(d) { throw refuse(model.spec.name, d, allowed) }
    }
    var chosen: [UInt32: (DType, String)] = [:]
    for (i, model) in entry.tensors.enumerated() where present >> UInt64(i) & 1 == 1 {
      let s = model.spec
      guard s.dtypeVar != 0, !s.orF32, let d = DType(rawValue: storage.dtypes[i]) else { continue }
      if let (want, from) = chosen[s.dtypeVar] {
        if want != d {
          throw Refusal(
            .dtype, s.name, "\(at): \(s.name) is \(d.name), expected \(want.name) (as \(from))",
            detail: (Int64(want.rawValue), Int64(d.rawValue)))
        }
      } else {
        chosen[s.dtypeVar] = (d, s.name)
      }
    }
    for (i, model) in entry.tensors.enumerated() where present >> UInt64(i) & 1 == 1 {
      let s = model.spec, allowed = DType.set(s.dtypes)
      let shared = s.dtypeVar == 0 ? nil : chosen[s.dtypeVar]?.0
      if storage.dtypes[i] < 0 { storage.dtypes[i] = (shared ?? allowed.first ?? .f32).rawValue }
      guard let d = DType(rawValue: storage.dtypes[i]) else { continue }
      let expected = s.orF32 && shared != nil ? [.f32, shared ?? .f32] : allowed
      guard expected.contains(d) else { throw refuse(s.name, d, expected) }
    }
  }

  private static func makeShapes(
    _ program: BindProgram, _ present: UInt64, _ frame: inout BindFrame, _ storage: BindStorage, _ at: String
  ) throws(Refusal) {
    var env = frame.environment
    for (i, model) in program.entry.tensors.enumerated()
    where present >> UInt64(i) & 1 == 1 && storage.givenRanks[i] < 0 {
      var source = i
      if case .like(let other) = model.shape, present >> UInt64(other) & 1 == 1 {
        if let known = storage.shape(other) {
          storage.setShape(i, known, made: true)
          continue
        }
        source = other
      }
      var dims: [Int64] = []
      for dim in program.dims[source] ?? [] {
        guard let form = dim.forms.first else { continue }
        let x = try form.cold(&env, at)
        guard x >= 0 else {
          throw Refusal(
            .shape, model.spec.name, "\(at): \(model.spec.name) dim \(dims.count) (\(dim.text)) would be \(x)")
        }
        dims.append(x)
      }
      storage.setShape(i, dims, made: true)
    }
  }

  private static func check(_ o: BindProgram.Outcome, _ program: BindProgram, _ frame: BindFrame, _ op: Operator)
    throws(Refusal)
  {
    if !o.isGood { throw program.refusal(o, frame, op) }
  }

  /// Bytes of a compact tensor; nil if they do not fit 63 bits.
  package static func byteCount(_ shape: [Int64], _ dtype: Int32) -> Int64? {
    var n = Int64(DType(rawValue: dtype)?.size ?? 1)
    if shape.contains(0) { return 0 }
    for x in shape {
      let (product, over) = n.multipliedReportingOverflow(by: x)
      if over { return nil }
      n = product
    }
    return n
  }
}

extension Expression {
  /// Value on the cold path; a fault becomes E_SHAPE.
  package func cold(_ env: inout Environment, _ at: String) throws(Refusal) -> Int64 {
    var fault = Fault()
    let v = evaluate(&env, &fault)
    guard fault.reason == .none else { throw Refusal(.shape, "", "\(at): \(text) has no value: \(fault.words)") }
    return v
  }
  package func evaluate(_ env: inout Environment, _ fault: inout Fault) -> Int64 {
    nodes.withUnsafeBufferPointer { p in
      guard let base = p.baseAddress else { return 0 }
      return AttuneCore.evaluate(base, Int32(p.count - 1), &env, &fault)
    }
  }
}

extension Fault {
  package var words: String {
    switch reason {
    case .none: "fine"
    case .unbound: "a size is unknown"
    case .overflow: "64-bit overflow"
    case .division: "division by a value that is not positive"
    }
  }
}
