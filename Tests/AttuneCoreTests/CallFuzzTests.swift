import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// Whatever stands in a problem's records, planning answers with a code: no trap, no read beyond what is given.
@Suite struct CallFuzzTests {
  private static let odd: [Int64] = [
    0, 1, 2, 3, 7, 8, 63, 64, 255, -1, -2, 1 << 31, -(1 << 31), 1 << 32, 1 << 61, .max, .max - 1, .min, .min + 1,
  ]

  @Test func problems() throws {
    let folder = Folder()
    folder.add("good")
    var handle: OpaquePointer?
    folder.path.withCString { path in
      var options = attune_context_options()
      options.struct_size = UInt32(MemoryLayout<attune_context_options>.size)
      options.plugin_path = path
      #expect(attune_context_create(&options, &handle, nil) == 0)
    }
    let context = try #require(handle)
    defer { attune_context_release(context) }
    var random = SeededNumbers(seed: 1, name: "calls")
    var codes: [attune_status: Int] = [:]
    for _ in 0..<60_000 { codes[attempt(context, &random), default: 0] += 1 }
    // Each of these was reached, so the mutations are neither too wild nor too tame.
    for code in [ATTUNE_OK, ATTUNE_E_INVALID, ATTUNE_E_SHAPE, ATTUNE_E_DTYPE, ATTUNE_E_LAYOUT, ATTUNE_E_UNSUPPORTED] {
      #expect(codes[attune_status(code), default: 0] > 100, "code \(code) in \(codes)")
    }
  }

  /// One valid problem (q and o of 8 floats) with a few fields overwritten.
  private func attempt(_ context: OpaquePointer, _ random: inout SeededNumbers) -> attune_status {
    var data = [Float](repeating: 0, count: 8)
    var dims = [Int64](repeating: 1, count: 32)  // two shapes of 8, then two times 8 strides
    (dims[0], dims[8]) = (8, 8)
    func pick(_ random: inout SeededNumbers) -> Int64 {
      CallFuzzTests.odd[Int(random.below(Int64(CallFuzzTests.odd.count)))]
    }
    let spoiled = random.below(4)
    var tensors = [attune_tensor](repeating: attune_tensor(), count: 2)
    var hasStrides = [random.below(2) == 0, random.below(2) == 0]
    return data.withUnsafeMutableBytes { bytes in
      for t in 0..<2 {
        tensors[t].data = random.below(3) == 0 ? nil : bytes.baseAddress
        tensors[t].device.device_type = 1
        tensors[t].ndim = 1
        tensors[t].dtype = DType.f32.dlpack
      }
      var problem = attune_problem()
      problem.struct_size = UInt32(MemoryLayout<attune_problem>.size)
      for _ in 0..<spoiled {
        let t = Int(random.below(2))
        switch random.below(16) {
        case 0: tensors[t].ndim = Int32(truncatingIfNeeded: pick(&random))
        case 1: dims[8 * t + Int(random.below(8))] = pick(&random)
        case 2: dims[16 + 8 * t + Int(random.below(8))] = pick(&random)
        case 3: tensors[t].dtype.code = UInt8(truncatingIfNeeded: pick(&random))
        case 4: tensors[t].dtype.bits = UInt8(truncatingIfNeeded: pick(&random))
        case 5: tensors[t].dtype.lanes = UInt16(truncatingIfNeeded: pick(&random))
        case 6: tensors[t].device.device_type = Int32(truncatingIfNeeded: pick(&random))
        case 7: tensors[t].byte_offset = UInt64(bitPattern: pick(&random))
        case 8: problem.flags = UInt32(truncatingIfNeeded: pick(&random))
        case 9: problem.workers = Int32(truncatingIfNeeded: pick(&random))
        case 10: problem.tune_mode = Int32(truncatingIfNeeded: pick(&random))
        case 11: problem.device_type = Int32(truncatingIfNeeded: pick(&random))
        case 12: problem.struct_size = UInt32(truncatingIfNeeded: pick(&random))
        case 13: hasStrides[t] = true
        case 14: dims[8] = dims[0]
        default: tensors[t].dtype = DType.allCases[Int(random.below(9))].dlpack
        }
      }
      return dims.withUnsafeMutableBufferPointer { dims in
        for t in 0..<2 {
          tensors[t].shape = dims.baseAddress.map { $0 + 8 * t }
          tensors[t].strides = hasStrides[t] ? dims.baseAddress.map { $0 + 16 + 8 * t } : nil
        }
        return plan(context, &problem, &tensors)
      }
    }
  }

  private func plan(
    _ context: OpaquePointer, _ problem: inout attune_problem, _ tensors: inout [attune_tensor]
  ) -> attune_status {
    "good".withCString { op in
      "q".withCString { q in
        "o".withCString { o in
          tensors.withUnsafeBufferPointer { t in
            let size = UInt32(MemoryLayout<attune_tensor_ref>.size)
            let refs = [
              attune_tensor_ref(struct_size: size, reserved: 0, name: q, tensor: t.baseAddress),
              attune_tensor_ref(struct_size: size, reserved: 0, name: o, tensor: t.baseAddress.map { $0 + 1 }),
            ]
            return refs.withUnsafeBufferPointer { r in
              problem.op = op
              problem.tensors = attune_span(data: r.baseAddress, count: 2, stride: size)
              var error = attune_error()
              error.struct_size = UInt32(MemoryLayout<attune_error>.size)
              var plan: OpaquePointer?
              // struct_size may claim more than there is; the claim is checked for zeros, so the memory must be there.
              let status = withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 8) { memory in
                memory.initializeMemory(as: UInt8.self, repeating: 0)
                guard let base = memory.baseAddress else { return attune_status(ATTUNE_E_INTERNAL) }
                base.storeBytes(of: problem, as: attune_problem.self)
                return attune_plan_create(context, base.assumingMemoryBound(to: attune_problem.self), &plan, &error)
              }
              if status == 0 {
                attune_plan_release(plan)
              } else {
                #expect(plan == nil && error.code == status && error.message.0 != 0)
              }
              return status
            }
          }
        }
      }
    }
  }
}
