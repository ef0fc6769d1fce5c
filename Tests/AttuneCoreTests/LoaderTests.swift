import CAttune
import CRuntime
import Foundation
import Testing

@testable import AttuneCore

/// Every bad plugin beside the good one: its code, its sentence, and that the good one works all the same.
@Suite struct LoaderTests {
  struct Case: CustomTestStringConvertible, Sendable {
    let plugin: String, code: Status, sentence: String
    init(_ plugin: String, _ code: Status, _ sentence: String) {
      (self.plugin, self.code, self.sentence) = (plugin, code, sentence)
    }
    var testDescription: String { plugin }
  }

  static let refused = [
    Case("no_entry", .load, "it does not export attune_plugin_entry_v1"),
    Case("missing_symbol", .load, "undefined symbol: nowhere_to_be_found"),
    Case("entry_refuses", .abi, "its entry function answered E_ABI: needs minor 7 of the host"),
    Case("entry_fails", .load, "its entry function answered E_NOMEM: aaa"),
    Case("entry_no_table", .load, "its entry function gave no table"),
    Case("entry_minor", .abi, "it chose minor 7 of the ABI, offered were 0 to 0"),
    Case("init_fails", .load, "its init answered E_UNSUPPORTED: no licence was found"),
    Case("no_note", .load, "it has no note of Attune"),
    Case("note_major", .abi, "it is made for version 2 of the ABI, this library has 1"),
    Case("note_size", .load, "its note of Attune has 96 bytes, expected 112"),
    Case("note_id", .load, "its note says id org.example.other, its table says org.example.note_id"),
    Case("note_isa", .load, "all of it needs bit63, which may not be used here"),
    Case("huge_count", .load, "ops has 4294967295 elements, expected at most 64"),
    Case("zero_stride", .load, "ops has stride 0, expected a multiple of 8 from 120"),
    Case("two_references", .load, "2 REFERENCE kernels, expected 1"),
  ]

  @Test(arguments: refused) func isRefusedAlone(_ c: Case) throws {
    let folder = Folder()
    let path = folder.add(c.plugin)
    folder.add("good")
    let lines = Lines()
    let registry = Registry(folder, log: lines.log)
    let refusal = try #require(registry.refusal("attune_\(c.plugin).so"))
    #expect(refusal.code == c.code)
    #expect(refusal.message.contains(c.sentence), "\(refusal.message)")
    #expect(refusal.message.hasPrefix(path))
    #expect(lines.all.contains("warning: " + refusal.message))
    #expect(runsCopy(try registry.find("good")))
    #expect(registry.registrations.count == 1)
    let unknown = #expect(throws: Refusal.self) { try registry.find(c.plugin) }
    #expect(unknown?.code == .notFound)
    #expect(unknown?.message.contains(c.sentence) == true, "\(unknown?.message ?? "")")
  }

  /// What has no note is for attune_load alone; everything else is refused there too, with the same code.
  @Test(arguments: refused) func isRefusedByName(_ c: Case) throws {
    let folder = Folder()
    let path = folder.add(c.plugin)
    let registry = Registry(Folder())
    if c.plugin == "no_note" {
      #expect(try registry.loadFile(path).id == "org.example.no_note")
      #expect(runsCopy(try registry.find("no_note")))
      return
    }
    let refusal = #expect(throws: Refusal.self) { try registry.loadFile(path) }
    #expect(refusal?.code == c.code)
    #expect(refusal?.message.contains(c.sentence) == true)
    #expect(registry.refusal("attune_\(c.plugin).so") == refusal)
  }

  @Test func oneBadOperatorOfTwo() throws {
    let folder = Folder()
    folder.add("bad_expression")
    let registry = Registry(folder)
    #expect(runsCopy(try registry.find("bad_expression")))
    let refusal = #expect(throws: Refusal.self) { try registry.find("broken") }
    #expect(refusal?.code == .notFound)
    #expect(refusal?.message.contains("broken.forward: tensor q: ") == true, "\(refusal?.message ?? "")")
  }

  @Test func endlessString() throws {
    let folder = Folder()
    folder.add("endless_id")
    let registry = Registry(folder)
    #expect(runsCopy(try registry.find("endless_id")))
    let operators = try #require(registry.record("attune_endless_id.so")).operators
    guard case .refused(let refusal) = operators.last?.status else { return #expect(Bool(false)) }
    #expect(operators.last?.id == "#1")
    #expect(refusal.message == "#1: id is longer than 63 bytes")
  }

  @Test(arguments: [
    ("unknown_flag", "flags is 0x40000000, known are 0xf"),
    ("grown_kernel", "attune_kernel uses byte 168, which this version of the library (168 bytes) does not know"),
  ]) func oneBadKernel(_ plugin: String, _ reason: String) throws {
    let folder = Folder()
    folder.add(plugin)
    let registration = try Registry(folder).find(plugin)
    let entry = try #require(registration.op.entry(named: "forward"))
    #expect(entry.droppedKernels.map(\.name) == ["later"])
    #expect(entry.droppedKernels.first?.reason == reason)
    #expect(entry.kernels.map(\.spec.name) == (plugin == "grown_kernel" ? ["reference", "same"] : ["reference"]))
    #expect(runsCopy(registration))
  }

  @Test func floatingPointModeIsRestored() throws {
    let folder = Folder()
    folder.add("flush_to_zero")
    let before = crt_fpcw()
    let registry = Registry(folder)
    #expect(crt_fpcw() == before)
    #expect(
      registry.record("attune_flush_to_zero.so")?.warnings == ["loading it changed the floating-point mode; restored"])
    #expect(runsCopy(try registry.find("flush_to_zero")))
  }

  @Test func initAndShutdownOncePerContext() throws {
    let folder = Folder()
    folder.add("services")
    let lines = Lines()
    var registration: Registration?
    do {
      let registry = Registry(folder, log: lines.log)
      registration = try registry.find("services")
      #expect(try registry.loadFile(folder.file("attune_services.so")) === registration?.plugin)
    }
    #expect(lines.all.filter { $0.hasPrefix("info: init") } == ["info: init under minor 0"])
    #expect(!lines.all.contains { $0.contains("shutdown") || $0.contains("surprise") })
    withExtendedLifetime(registration) {}
    registration = nil
    #expect(lines.all.last == "error: shutdown \u{fffd}")
  }

  @Test func aReplacedFileKeepsTheLoadedCode() throws {
    let folder = Folder()
    let path = folder.add("good")
    let first = Registry(folder)
    folder.write(folder.bytes(of: "newer"), to: "fresh")
    #expect(rename(folder.file("fresh"), path) == 0)
    let second = Registry(folder)
    #expect(try second.find("good").plugin.image === first.find("good").plugin.image)
    #expect(second.record("attune_good.so")?.warnings.first?.contains("has changed since this process loaded") == true)
  }

  @Test func manyThreadsLoadOneFile() async throws {
    let folder = Folder()
    let path = folder.add("good")
    let lines = Lines()
    folder.add("services")
    let registry = Registry(folder, log: lines.log)
    let plugins = await withTaskGroup(of: LoadedPlugin?.self) { group in
      for _ in 0..<16 { group.addTask { try? registry.loadFile(path) } }
      return await group.reduce(into: []) { $0.append($1) }
    }
    #expect(plugins.count == 16 && plugins.allSatisfy { $0 != nil && $0 === plugins[0] })
    #expect(registry.records.count == 2)
  }
}
