import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// Which of several plugins a name means, and what is said when it means nothing.
@Suite struct RegistryTests {
  @Test func lowerRankWins() throws {
    let near = Folder()
    let far = Folder()
    near.add("rival")
    far.add("newer")
    let registry = Registry(near, far)
    #expect(try registry.find("good").plugin.id == "org.example.rival")
    #expect(try registry.find("good@org.example.good").op.descriptor.version.minor == 1)
    #expect(try registry.find("good@org.example.rival").plugin.id == "org.example.rival")
    #expect(registry.registrations.map(\.plugin.id) == ["org.example.rival"])
    guard case .shadowed(_, let reason) = registry.record("attune_newer.so")?.operators.first?.status else {
      return #expect(Bool(false))
    }
    #expect(reason == "good 1.0.0 of \(near.file("attune_rival.so")) comes first")
  }

  @Test func higherVersionWinsWithinARank() throws {
    let folder = Folder()
    folder.add("newer")
    folder.add("rival")
    #expect(try Registry(folder).find("good").plugin.id == "org.example.good")
  }

  @Test func sameRankAndVersionIsAmbiguous() throws {
    let folder = Folder()
    folder.add("good")
    folder.add("rival")
    let registry = Registry(folder)
    let refusal = #expect(throws: Refusal.self) { try registry.find("good") }
    #expect(refusal?.code == .ambiguous)
    #expect(
      refusal?.message
        == "several plugins offer good 1.0.0: say one of good@org.example.good, good@org.example.rival")
    #expect(runsCopy(try registry.find("good@org.example.good")))
    #expect(runsCopy(try registry.find("good@org.example.rival")))
    #expect(registry.registrations.isEmpty)
  }

  @Test func twoFilesOfOnePlugin() throws {
    let folder = Folder()
    folder.add("good", as: "attune_a.so")
    folder.add("newer", as: "attune_b.so")
    let registry = Registry(folder)
    #expect(try registry.find("good").op.descriptor.version.minor == 1)
    #expect(registry.shadow("attune_a.so") == "plugin org.example.good was taken from \(folder.file("attune_b.so"))")
  }

  @Test func aFailingWinnerGivesWay() throws {
    let near = Folder()
    let far = Folder()
    near.write(Array(near.bytes(of: "good").prefix(3000)), to: "attune_good.so")
    far.add("good")
    let registry = Registry(near, far)
    #expect(registry.records.map { $0.plugin != nil } == [false, true])
    #expect(runsCopy(try registry.find("good")))
  }

  @Test func namedFileComesFirst() throws {
    let folder = Folder()
    let own = Folder()
    folder.add("newer")
    let registry = Registry(folder)
    #expect(try registry.find("good").plugin.id == "org.example.good")
    let before = try registry.find("good")
    try registry.loadFile(own.add("rival", as: "anything.bin"))
    #expect(try registry.find("good").plugin.id == "org.example.rival")
    #expect(runsCopy(before))
    #expect(registry.records.map(\.rank) == [0, 1])
  }

  @Test func aRefusedFileMayBeTriedAgain() throws {
    let folder = Folder()
    let path = folder.file("attune_good.so")
    let registry = Registry(Folder())
    #expect(#expect(throws: Refusal.self) { try registry.loadFile(path) }?.code == .io)
    folder.add("good")
    try registry.loadFile(path)
    #expect(registry.records.count == 1 && registry.records[0].plugin != nil)
  }

  @Test func disabled() throws {
    let folder = Folder()
    folder.add("good")
    folder.add("rival")
    folder.add("bad_expression")
    let registry = Registry(folder, disabled: ["*.rival", "bad_*"])
    #expect(try registry.find("good").plugin.id == "org.example.good")
    #expect(registry.refusal("attune_rival.so")?.code == .denied)
    #expect(
      registry.refusal("attune_rival.so")?.message
        == folder.file("attune_rival.so") + ": org.example.rival is disabled by ATTUNE_DISABLE (*.rival)")
    #expect(registry.refusal("attune_bad_expression.so")?.code == .denied)
    #expect(#expect(throws: Refusal.self) { try registry.loadFile(folder.file("attune_rival.so")) }?.code == .denied)
  }

  @Test func unknownNames() throws {
    let folder = Folder()
    folder.add("good")
    let registry = Registry(folder)
    func message(_ name: String) -> String? { #expect(throws: Refusal.self) { try registry.find(name) }?.message }
    #expect(message("god") == "no operator god; nearest: good; looked in \(folder.path)")
    #expect(message("something") == "no operator something; there are good; looked in \(folder.path)")
    #expect(message("good@org.example.bad") == "no operator good@org.example.bad: good is offered by org.example.good")
    #expect(message("") == "no operator ; there are good; looked in \(folder.path)")
    #expect(message(String(repeating: "x", count: 100_000))?.utf8.count ?? 0 < 400)
    #expect(message("@") != nil && message("good@") != nil)
  }

  @Test func configuration() throws {
    var options = attune_context_options()
    options.struct_size = UInt32(MemoryLayout<attune_context_options>.size)
    let lines = Lines()
    _ = lines
    let environment = [
      "ATTUNE_PLUGIN_PATH": "/a:/b", "ATTUNE_DISABLE": "x,y*", "ATTUNE_TUNE": "estimate", "ATTUNE_THREADS": "3",
      "ATTUNE_MAX_ISA": "avx2", "ATTUNE_CHECK": "1", "ATTUNE_TUNE_BUDGET_MS": "250", "ATTUNE_WISDOM": "",
      "ATTUNE_CACHE_DIR": "/cache", "ATTUNE_RECORD_SHAPES": "/shapes", "ATTUNE_LOG": "info", "HOME": "/users/me",
    ]
    let c = try Configuration(options: &options, isSecure: false) { environment[$0] }
    #expect(c.pluginPath == "/a:/b" && c.disable == ["x", "y*"] && c.tuneMode == .estimate && c.workers == 3)
    #expect(c.maxISA == .avx2 && c.isChecked && c.tuneBudgetMicroseconds == 250_000 && c.wisdom == "")
    #expect(c.cacheDirectory == "/cache" && c.recordShapes == "/shapes" && c.log.threshold == .info)
    #expect(c.dataDirectory == "/users/me/.local/share")

    let secure = try Configuration(options: nil, isSecure: true) { environment[$0] }
    #expect(secure.pluginPath == nil && secure.disable.isEmpty && secure.cacheDirectory == nil && !secure.isChecked)
    #expect(secure.dataDirectory == nil && secure.log.threshold == .warning && secure.tuneMode == .measure)

    options.workers = 2
    options.tune_mode = Int32(ATTUNE_TUNE_OFF)
    options.tune_budget_us = 7
    try "/option".withCString { path throws in
      options.plugin_path = path
      let c = try Configuration(options: &options, isSecure: false) { environment[$0] }
      #expect(c.pluginPath == "/option" && c.workers == 2 && c.tuneMode == .off && c.tuneBudgetMicroseconds == 7)
    }
  }

  @Test func badEnvironmentCostsOneLineEach() throws {
    var options = attune_context_options()
    options.struct_size = UInt32(MemoryLayout<attune_context_options>.size)
    let lines = Lines()
    options.user = Unmanaged.passUnretained(lines).toOpaque()
    options.log = { user, level, text in
      let lines = Unmanaged<Lines>.fromOpaque(user!).takeUnretainedValue()
      lines.log(Log.Level(rawValue: level)!, String(cString: text!))
    }
    let environment = [
      "ATTUNE_TUNE": "fast", "ATTUNE_THREADS": "-1", "ATTUNE_MAX_ISA": "AVX2", "ATTUNE_CHECK": "yes",
      "ATTUNE_TUNE_BUDGET_MS": "1e3", "ATTUNE_CACHE_DIR": "cache", "ATTUNE_LOG": "loud", "XDG_DATA_HOME": "data",
    ]
    let c = try Configuration(options: &options, isSecure: false) { environment[$0] }
    #expect(c.tuneMode == .measure && c.maxISA == nil && !c.isChecked && c.workers >= 1 && c.dataDirectory == nil)
    #expect(
      lines.all.sorted() == [
        "warning: ATTUNE_CACHE_DIR is \"cache\", expected an absolute path: ignored",
        "warning: ATTUNE_CHECK is \"yes\", expected one of 0, 1: ignored",
        "warning: ATTUNE_LOG is \"loud\", expected debug, info, warning, error or off: ignored",
        "warning: ATTUNE_MAX_ISA is \"AVX2\", expected one of sse4, avx2, avx512: ignored",
        "warning: ATTUNE_THREADS is \"-1\", expected 1 to 1024: ignored",
        "warning: ATTUNE_TUNE is \"fast\", "
          + "expected one of off, frozen, estimate, measure, patient, exhaustive: ignored",
        "warning: ATTUNE_TUNE_BUDGET_MS is \"1e3\", expected 1 to 86400000: ignored",
      ])
  }

  @Test(arguments: [
    (Status.invalid, "workers is -1, expected 0 to 1024"), (.invalid, "tune_mode is 9, expected 0 to 6"),
    (.unsupported, "flags has unknown bits: 6"), (.invalid, "struct_size is 8"), (.invalid, "plugin_path is not UTF-8"),
  ]) func badOptions(_ code: Status, _ sentence: String) {
    var options = attune_context_options()
    options.struct_size = UInt32(MemoryLayout<attune_context_options>.size)
    let path: [CChar] = [-1, 0]
    path.withUnsafeBufferPointer { path in
      switch sentence.prefix(6) {
      case "worker": options.workers = -1
      case "tune_m": options.tune_mode = 9
      case "flags ": options.flags = 6
      case "struct": options.struct_size = 8
      default: options.plugin_path = path.baseAddress
      }
      let refusal = #expect(throws: Refusal.self) {
        try Configuration(options: &options, isSecure: false) { _ in nil }
      }
      #expect(refusal?.code == code)
      #expect(refusal?.message.contains(sentence) == true, "\(refusal?.message ?? "")")
    }
  }
}
