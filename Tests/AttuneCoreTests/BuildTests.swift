import Foundation
import Testing

@testable import AttuneCore

/// What tells builds of a plugin apart.
@Suite struct BuildTests {
  private static func build(_ path: String) throws -> String {
    try PluginFile.inspect(
      path, rank: 1, isExplicit: false, trust: FileTrust(isSecure: false), cpu: CPUFeatures(cap: nil)
    ).build
  }

  @Test func theLinkersNameCounts() throws {
    let folder = Folder()
    let build = try BuildTests.build(folder.add("good"))
    #expect(build.utf8.count >= 16 && build.utf8.allSatisfy { "0123456789abcdef".utf8.contains($0) })
    #expect(try BuildTests.build(folder.add("good", as: "attune_copy.so")) == build)
    #expect(try BuildTests.build(folder.add("services")) != build)
    let digits = stride(from: 0, to: build.utf8.count, by: 2).compactMap { i in
      UInt8(build.dropFirst(i).prefix(2), radix: 16)
    }
    let bytes = folder.bytes(of: "good")
    #expect(bytes.indices.contains { bytes[$0...].starts(with: digits) }, "the file does not say so")
    #expect(Registry(folder).record("attune_copy.so")?.plugin?.build == build)
  }

  @Test func withoutOneTheBytesCount() throws {
    let folder = Folder()
    var bytes = folder.bytes(of: "good")
    let note = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0] + Array("GNU\0".utf8)
    let at = try #require(bytes.indices.first { bytes[$0...].starts(with: note) })
    bytes[at + 14] = UInt8(ascii: "X")
    folder.write(bytes, to: "attune_a.so")
    folder.write(bytes, to: "attune_b.so")
    bytes[bytes.count - 1] ^= 1
    folder.write(bytes, to: "attune_c.so")
    let (a, b) = (try BuildTests.build(folder.file("attune_a.so")), try BuildTests.build(folder.file("attune_b.so")))
    #expect(a == b && a.utf8.count == 16)
    #expect(try BuildTests.build(folder.file("attune_c.so")) != a)
  }
}
