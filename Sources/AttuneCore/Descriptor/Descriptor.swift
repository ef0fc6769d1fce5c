import CAttune

/// What a plugin says about its operators, copied out of its tables once: plain values, not yet checked for meaning.
/// Field names are those of `attune/plugin.h`; `Operator` is the compiled form.
package enum Descriptor {
  package struct Operator: Sendable {
    package var id = "", version = Version(), title = "", doc = "", reference = ""
    package var params: [Param] = [], entries: [Entry] = [], presets: [Preset] = [], tolerances: [Tolerance] = []
  }

  package struct Version: Sendable, Comparable, CustomStringConvertible {
    package var major: UInt32 = 0, minor: UInt32 = 0, patch: UInt32 = 0
    package static func < (a: Version, b: Version) -> Bool {
      (a.major, a.minor, a.patch) < (b.major, b.minor, b.patch)
    }
    package var description: String { "\(major).\(minor).\(patch)" }
  }

  package struct Param: Sendable {
    package enum Kind: UInt32, Sendable { case bool = 1, i64, f64, `enum` }
    package var name = "", doc = "", kind = Kind.i64, words: [String] = []
    package var isRequired = false, isStructural = false, minOpen = false, maxOpen = false
    package var def = attune_value(), min = attune_value(), max = attune_value()
  }

  package struct Entry: Sendable {
    package enum Kind: UInt32, Sendable { case forward = 1, backward, step, special }
    package var name = "", kind = Kind.forward, of: String?
    package var symbols = "", `let` = "", buckets = "", flops = "", bytes: String?, doc = ""
    package var tensors: [Tensor] = [], rules: [Rule] = [], kernels: [Kernel] = []
    package var check: (@convention(c) (UnsafePointer<attune_exec>?) -> attune_status)?
  }

  package struct Tensor: Sendable {
    package enum Role: UInt32, Sendable { case `in` = 1, out, weight, state, stateOut, saved }
    package var name = "", role = Role.in, shape = "", dtypeVar: UInt32 = 0, dtypes: UInt64 = 0
    package var orF32 = false, stridedLast = false
    package var needed: String?, allowed: String?, pair: String?, gen = "", doc = ""
  }

  package struct Rule: Sendable { package var code = Status.shape, expr = "", text = "" }

  package struct Kernel: Sendable {
    package var name = "", doc = "", revision: UInt32 = 0, minAlign: UInt32 = 0
    package var deviceType: UInt32 = 0, arch: UInt32 = 0, isa: (UInt64, UInt64) = (0, 0)
    package var isReference = false, isInvariant = false, isReduced = false, ownsThreads = false
    package var run: attune_kernel_fn?, native: attune_native_fn?
    package var args: [Argument] = [], knobs: [Knob] = []
    package var when: String?, knobWhen: String?, tasks: String?, workspace: String?, flops: String?, bytes: String?
    package var efficiency = 0.0
    nonisolated(unsafe) package var user: UnsafeMutableRawPointer?
    /// Set when the kernel alone must be dropped (an unknown flag, a larger struct with non-zero tail); the entry
    /// stays.
    package var refused: String?
  }

  package struct Argument: Sendable {
    package enum Kind: UInt32, Sendable {
      case data = 1, tensor, stride, expr, param, workspace, taskBegin, taskEnd, worker, exec
    }
    package enum CType: UInt32, Sendable { case i32 = 1, i64, f32, f64, ptr }
    package var kind = Kind.data, ctype = CType.ptr, dim: Int32 = 0, name = ""
  }

  package struct Knob: Sendable { package var name = "", doc = "", values: [Int64] = [], def = 0 }

  package struct Preset: Sendable {
    package var name = "", entry = "", params = "", shape = "", tensors = "", doc = ""
    package var isDemo = false, isBench = false
  }

  package struct Tolerance: Sendable { package var dtype: DType = .f32, rtol = 0.0, atol = 0.0 }
}
