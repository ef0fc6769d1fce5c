import CAttune
import CRuntime
import Foundation
import Testing

@testable import AttuneCore

/// Which files are looked at, in which order, and which are refused before any of their code runs.
@Suite struct DiscoveryTests {
  struct Damage: CustomTestStringConvertible, Sendable {
    let testDescription: String, code: Status, sentence: String
    let change: @Sendable (inout [UInt8]) -> Void
    init(_ name: String, _ code: Status, _ sentence: String, _ change: @escaping @Sendable (inout [UInt8]) -> Void) {
      (testDescription, self.code, self.sentence, self.change) = (name, code, sentence, change)
    }
  }

  @Test(arguments: [
    Damage("empty", .load, "it has 0 bytes, expected 64 to 1073741824") { $0 = [] },
    Damage("text", .load, "it is not an ELF file") { $0 = Array(repeating: 0x23, count: 4096) },
    Damage("cut in its header", .load, "it has 63 bytes") { $0 = Array($0.prefix(63)) },
    Damage("cut after its header", .load, "its program headers are damaged") { $0 = Array($0.prefix(64)) },
    Damage("cut in its tables", .load, "its program headers are damaged") { $0 = Array($0.prefix(200)) },
    Damage("cut before its notes", .load, "it is cut short: it has 656 bytes, its segments end at") {
      $0 = Array($0.prefix(656))
    },
    Damage("cut in its data", .load, "it is cut short: it has 12000 bytes") { $0 = Array($0.prefix(12000)) },
    Damage("32-bit", .load, "it is not a 64-bit little-endian ELF file") { $0[4] = 1 },
    Damage("big-endian", .load, "it is not a 64-bit little-endian ELF file") { $0[5] = 2 },
    Damage("a program", .load, "it is not a shared object (ELF type 2)") { $0[16] = 2 },
    Damage("another machine", .load, "it is for another machine (ELF machine 8, expected") { $0[18] = 8 },
    Damage("headers at the end of the world", .load, "its program headers are damaged") {
      $0.replaceSubrange(32..<40, with: Array(repeating: 0xff, count: 8))
    },
    Damage("65535 headers", .load, "its program headers are damaged") {
      $0.replaceSubrange(56..<58, with: [0xff, 0xff])
    },
  ]) func damagedFile(_ damage: Damage) throws {
    let folder = Folder()
    var bytes = folder.bytes(of: "good")
    damage.change(&bytes)
    folder.write(bytes, to: "attune_damaged.so")
    folder.add("good")
    let registry = Registry(folder)
    let refusal = try #require(registry.refusal("attune_damaged.so"))
    #expect(refusal.code == damage.code)
    #expect(refusal.message.hasPrefix(folder.file("attune_damaged.so: ") + damage.sentence), "\(refusal.message)")
    #expect(runsCopy(try registry.find("good")))
  }

  /// Any bytes: an answer or a refusal, never a trap or a read beyond the file.
  @Test func mutatedHeaders() throws {
    let good = Folder().bytes(of: "good")
    let span = min(good.count, 0x400)
    var seeded = Seeded(state: 0x5eed)
    var answers: [String: Int] = [:]
    for _ in 0..<5_000 {
      var bytes = good
      for _ in 0..<Int.random(in: 1...6, using: &seeded) {
        bytes[Int.random(in: 0..<span, using: &seeded)] = UInt8.random(in: 0...255, using: &seeded)
      }
      let limit = Int.random(in: 0...9, using: &seeded) == 0 ? Int.random(in: 0...span, using: &seeded) : bytes.count
      let reader = ELFReader(arch: crt_arch(), size: UInt64(good.count)) { offset, count in
        guard offset <= UInt64(limit), count <= limit - Int(offset) else { return nil }
        return Array(bytes[Int(offset)..<(Int(offset) + count)])
      }
      do throws(Refusal) {
        answers[try reader.note() == nil ? "no note" : "note", default: 0] += 1
      } catch {
        answers[error.code.name, default: 0] += 1
      }
    }
    #expect(Set(answers.keys) == ["note", "no note", "E_LOAD", "E_ABI"], "\(answers)")
  }

  @Test func writableByAll() throws {
    let folder = Folder()
    chmod(folder.add("good"), 0o666)
    let refusal = try #require(Registry(folder).refusal("attune_good.so"))
    #expect(refusal.code == .denied)
    #expect(refusal.message == folder.file("attune_good.so") + " is writable by everyone (mode 0666)")
    #expect(#expect(throws: Refusal.self) { try Registry(Folder()).loadFile(folder.file("attune_good.so")) } == refusal)
  }

  @Test func directoryWritableByAll() throws {
    let folder = Folder()
    folder.add("good")
    chmod(folder.path, 0o1777)
    let refusal = try #require(Registry(folder).refusal("attune_good.so"))
    #expect(refusal.code == .denied)
    #expect(refusal.message.hasSuffix("its directory \(folder.path) is writable by everyone (mode 01777)"))
  }

  @Test func foreignOwner() throws {
    let folder = Folder()
    folder.add("good")
    let stranger = FileTrust(owners: [geteuid() &+ 1], isSecure: false)
    let refusal = try #require(Registry(folder, trust: stranger).refusal("attune_good.so"))
    #expect(refusal.code == .denied)
    #expect(refusal.message.hasSuffix("is owned by user \(geteuid()), expected \(geteuid() &+ 1)"))
  }

  @Test func secureModeIsStricter() throws {
    let folder = Folder()
    let path = folder.add("good")
    chmod(path, 0o664)
    #expect(Registry(folder).refusal("attune_good.so") == nil)
    let secure = FileTrust(owners: [0, geteuid()], isSecure: true)
    let group = try #require(Registry(folder, trust: secure).refusal("attune_good.so"))
    #expect(group.code == .denied && group.message.contains("writable by its group (mode 0664)"))
    // Every parent counts: an innocent directory below one that everyone may write to.
    chmod(path, 0o644)
    mkdir(folder.file("inner"), 0o755)
    rename(path, folder.file("inner/attune_good.so"))
    chmod(folder.path, 0o777)
    let inner = SearchPath(named: folder.file("inner"), userData: nil, beside: [], system: [])
    func registry(_ trust: FileTrust) -> Registry {
      Registry(
        search: inner, cpu: CPUFeatures(cap: nil), admission: Admission(disabled: []), trust: trust,
        log: Log(threshold: nil) { _, _ in })
    }
    #expect(registry(FileTrust(isSecure: false)).refusal("attune_good.so") == nil)
    #expect(
      registry(secure).refusal("attune_good.so")?.message.hasSuffix(
        "its directory \(folder.path) is writable by everyone (mode 0777)") == true)
  }

  @Test func neitherFIFONorDirectoryNorDanglingLink() throws {
    let folder = Folder()
    #expect(mkfifo(folder.file("attune_fifo.so"), 0o644) == 0)
    #expect(mkdir(folder.file("attune_directory.so"), 0o755) == 0)
    #expect(symlink("nowhere", folder.file("attune_dangling.so")) == 0)
    #expect(symlink("attune_loop.so", folder.file("attune_loop.so")) == 0)
    folder.add("good")
    let registry = Registry(folder)
    #expect(registry.refusal("attune_fifo.so")?.message.hasSuffix("it is not a regular file") == true)
    #expect(registry.refusal("attune_directory.so")?.code == .denied)
    #expect(registry.refusal("attune_dangling.so")?.code == .io)
    #expect(registry.refusal("attune_loop.so")?.code == .io)
    #expect(runsCopy(try registry.find("good")))
  }

  @Test func oneFileOfManyNames() throws {
    let folder = Folder()
    let other = Folder()
    let path = folder.add("good")
    symlink(path, folder.file("attune_zlink.so"))
    link(path, folder.file("attune_hard.so"))
    symlink(path, other.file("attune_good.so"))
    let registry = Registry(folder, other)
    #expect(registry.records.filter { $0.plugin != nil }.map(\.path) == [path])
    #expect(registry.shadow("attune_zlink.so") == "it is the same file as \(path)")
    #expect(registry.shadow("attune_hard.so") == "it is the same file as \(path)")
    #expect(registry.records.filter { $0.rank == 2 }.count == 1)
  }

  @Test func onlyPluginNames() {
    let folder = Folder()
    for name in ["good.so", "libattune_good.so", "attune_.so", "attune_good.so.1", "attune_good", ".attune_good.so"] {
      folder.add("good", as: name)
    }
    folder.add("good", as: "attune_b.so")
    folder.add("rival", as: "attune_B.so")
    #expect(SearchPath.candidates(in: folder.path) == ["attune_B.so", "attune_b.so"])
    #expect(SearchPath.candidates(in: folder.file("nowhere")) == nil)
  }

  @Test func order() {
    let path = SearchPath(
      named: "/one:relative:.:./x::/two:/one", userData: "/users/me/.local/share", beside: ["/two", "/lib/attune"],
      system: ["/usr/lib/attune/plugins/1"])
    #expect(
      path.directories.map(\.path) == [
        "/one", "/two", "/users/me/.local/share/attune/plugins/1", "/lib/attune", "/usr/lib/attune/plugins/1",
      ])
    #expect(path.directories.map(\.rank) == [1, 2, 3, 4, 5])
    #expect(path.directories.map(\.origin) == [.named, .named, .user, .library, .system])
    #expect(
      path.warnings == ["relative", ".", "./x"].map { "plugin path: \"\($0)\" is not an absolute path: ignored" })
  }

  @Test func missingNamedDirectoryIsReported() {
    let folder = Folder()
    let lines = Lines()
    let search = SearchPath(
      named: folder.file("nowhere"), userData: folder.path, beside: [folder.file("beside")], system: [])
    _ = Registry(
      search: search, cpu: CPUFeatures(cap: nil), admission: Admission(disabled: []), trust: FileTrust(isSecure: false),
      log: lines.log)
    #expect(lines.all == ["warning: plugin directory \(folder.file("nowhere")): No such file or directory"])
  }

  @Test func maxISA() {
    let x86 = UInt32(ATTUNE_ARCH_X86_64)
    let all = UInt64.max
    func features(_ cap: CPUFeatures.Cap?) -> CPUFeatures { CPUFeatures(arch: x86, detected: all, cap: cap) }
    #expect(features(.sse4).isa.0 == 1 << UInt64(ATTUNE_X86_SSE42))
    #expect(features(.avx2).isa.0 == 0b111_1110)
    #expect(features(.avx512).isa.0 == all)
    #expect(CPUFeatures.Cap.allCases.map { features($0).name } == ["sse4", "avx2", "avx512"])
    #expect(features(.avx2).missing((1 << 8 | 1 << 5, 2)) == ["avx512f", "isa[1] 0x2"])
    #expect(CPUFeatures(arch: x86, detected: 0, cap: nil).name == "baseline")
    #expect(CPUFeatures(arch: UInt32(ATTUNE_ARCH_AARCH64), detected: 1, cap: .sse4).name == "neon")
  }
}

/// SplitMix64: the same numbers in every run.
struct Seeded: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
}
