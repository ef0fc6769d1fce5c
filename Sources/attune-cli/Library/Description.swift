import CAttune

/// What the library says about itself, as far as the commands need it: the JSON of `attune_describe`.
enum Description {
  struct Operator: Decodable {
    var id: String
    var version: String
    var title: String
    var doc: String?
    var reference: String?
    var plugin: Plugin?
    var params: [Param]
    var entries: [Entry]
    var presets: [Preset]
    var tolerance: [Tolerance]

    func entry(_ name: String) -> Entry? { entries.first { $0.name == name } }
    func param(_ name: String) -> Param? { params.first { $0.name == name } }
  }
  struct Plugin: Decodable {
    var id: String?
    var version: String?
    var path: String?
  }
  struct Param: Decodable {
    var name: String
    var kind: String
    var `default`: Scalar?
    var min: Scalar?
    var max: Scalar?
    var names: [String]?
    var flags: [String]?
    var doc: String?
  }
  struct Entry: Decodable {
    var name: String
    var kind: String?
    var of: String?
    var flops: String?
    var doc: String?
    var tensors: [Tensor]
    var kernels: [Kernel]?

    func tensor(_ name: String) -> Tensor? { tensors.first { $0.name == name } }
    func offers(_ kernel: String) -> Bool { kernels?.contains { $0.name == kernel } ?? false }
    var reference: String? { kernels?.first { $0.isReference }?.name }
    /// A saved tensor is an input of the entry that differentiates and an output elsewhere.
    func isOutput(_ t: Tensor) -> Bool {
      t.role == "out" || t.role == "state_out" || t.role == "saved" && (of ?? "").isEmpty
    }
  }
  struct Tensor: Decodable {
    var name: String
    var role: String
    var shape: String
    var dtypes: [String]
    var needed: String?
    var doc: String?
  }
  struct Kernel: Decodable {
    struct Knob: Decodable {
      var name: String
      var values: [Int64]
    }
    var name: String
    var flags: [String]?
    var isa: [String]?
    var usable: Bool
    var reason: String?
    var knobs: [Knob]?
    var doc: String?
    var isReference: Bool { flags?.contains("reference") ?? false }
  }
  struct Preset: Decodable {
    var name: String
    var flags: [String]?
    var entry: String
    var params: String?
    var shape: String?
    var tensors: String?
    var doc: String?
  }
  struct Tolerance: Decodable {
    var dtype: String
    var rtol: Double
    var atol: Double
  }

  struct Registry: Decodable {
    struct Operator: Decodable {
      struct Entry: Decodable {
        var name: String
        var kernels: [Kernel]
      }
      var id: String
      var version: String
      var title: String?
      var plugin: String?
      var entries: [Entry]
      var usable: Bool?
      var reason: String?
    }
    struct Plugin: Decodable {
      struct Operator: Decodable {
        var id: String
        var status: String
        var reason: String?
      }
      var path: String
      var id: String?
      var version: String?
      var status: String
      var code: String?
      var reason: String?
      var operators: [Operator]?
      var warnings: [String]?

      /// "E_ABI: it was built for ..." of a file that is not in use.
      var why: String { [code, reason].compactMap { $0 }.joined(separator: ": ") }
    }
    struct Folder: Decodable {
      var path: String
      var status: String?
      var reason: String?
    }
    var operators: [Operator]
    var plugins: [Plugin]
    var searchPath: [Folder]

    enum CodingKeys: String, CodingKey {
      case operators, plugins
      case searchPath = "search_path"
    }
  }

  struct CPU: Decodable {
    var name: String
    var isa: [String]
    var isaLevel: String
    var cappedBy: String?
    var l1d: Int64?
    var l2: Int64?
    var l3: Int64?
    var threads: Int?

    enum CodingKeys: String, CodingKey {
      case name, isa, l1d, l2, l3, threads
      case isaLevel = "isa_level"
      case cappedBy = "capped_by"
    }
  }

  struct Tuning: Decodable {
    struct Wisdom: Decodable {
      var path: String?
      var records: Int, quarantined: Int, damaged: Int
      var memoryOnly: String?
      enum CodingKeys: String, CodingKey {
        case path, records, quarantined, damaged
        case memoryOnly = "memory_only"
      }
    }
    var wisdom: Wisdom
  }
  struct Diagnostics: Decodable {
    struct Blas: Decodable {
      var found: Bool
      var core: String?
      var reason: String?
    }
    var blas: Blas?
    var environment: [String: String]?
  }
}

/// The vector width behind a kernel's required ISA bits, for a narrow column.
func isaLevel(_ bits: [String]) -> String {
  ["avx512", "avx2", "avx", "sse4", "sve", "neon"].first { level in bits.contains { $0.hasPrefix(level) } } ?? "any"
}
