import CAttune
import Foundation
import Synchronization
import Testing

@testable import AttuneCore

/// The plugins of Tests/BadPlugins, built once per run.
enum BadPlugins {
  static let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent("BadPlugins").path

  static let built: Folder = {
    let folder = Folder()
    let make = Process()
    make.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    make.arguments = ["make", "-s", "-j2", "-C", source, "OUT=\(folder.path)"]
    try? make.run()
    make.waitUntilExit()
    atexit { try? FileManager.default.removeItem(atPath: BadPlugins.built.path) }
    if make.terminationStatus != 0 { Issue.record("make -C \(source) failed") }
    return folder
  }()
}

/// A directory of one test's own, mode 0700, removed with the value.
final class Folder: Sendable {
  let path: String

  init() {
    var template = Array((NSTemporaryDirectory() + "/attune-test-XXXXXX").utf8CString)
    path = realpath(String(cString: mkdtemp(&template)), nil).map { String(cString: $0) }!
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func file(_ name: String) -> String { path + "/" + name }

  /// A copy of one of the built plugins.
  @discardableResult
  func add(_ plugin: String, as name: String? = nil) -> String {
    let target = file(name ?? "attune_\(plugin).so")
    write(bytes(of: plugin), to: Path.name(of: target))
    return target
  }

  func bytes(of plugin: String) -> [UInt8] {
    Array(FileManager.default.contents(atPath: BadPlugins.built.file("attune_\(plugin).so")) ?? Data())
  }

  func write(_ bytes: [UInt8], to name: String) {
    #expect(FileManager.default.createFile(atPath: file(name), contents: Data(bytes)))
    chmod(file(name), 0o644)
  }
}

/// Log lines of one test.
final class Lines: Sendable {
  private let lines = Mutex<[(Log.Level, String)]>([])
  var log: Log { Log(threshold: .debug) { [self] level, text in lines.withLock { $0.append((level, text)) } } }
  var all: [String] { lines.withLock { $0.map { "\($0.0.name): \($0.1)" } } }
}

extension Registry {
  /// Over exactly these directories.
  convenience init(
    _ folders: Folder..., disabled: [String] = [], trust: FileTrust = FileTrust(isSecure: false),
    cap: CPUFeatures.Cap? = nil,
    log: Log = Log(threshold: nil) { _, _ in }
  ) {
    self.init(
      search: SearchPath(named: folders.map(\.path).joined(separator: ":"), userData: nil, beside: [], system: []),
      cpu: CPUFeatures(cap: cap), admission: Admission(disabled: disabled), trust: trust, log: log)
  }

  func record(_ name: String) -> PluginRecord? { records.first { $0.name == name } }
  func refusal(_ name: String) -> Refusal? {
    if case .refused(let refusal) = record(name)?.status { refusal } else { nil }
  }
  func shadow(_ name: String) -> String? {
    if case .shadowed(let reason) = record(name)?.status { reason } else { nil }
  }
}

/// Runs the one kernel of a test operator on four numbers.
func runsCopy(_ registration: Registration) -> Bool {
  var input: [Float] = [1, 2, 3, 4]
  var output: [Float] = [0, 0, 0, 0]
  var shape: [Int64] = [4]
  var strides: [Int64] = [1]
  guard let run = registration.op.entries.first?.kernels.first?.spec.run else { return false }
  let status = input.withUnsafeMutableBytes { input in
    output.withUnsafeMutableBytes { output in
      shape.withUnsafeMutableBufferPointer { shape in
        strides.withUnsafeMutableBufferPointer { strides in
          var q = attune_tensor_make(input.baseAddress, 0, 1, shape.baseAddress)
          var o = attune_tensor_make(output.baseAddress, 0, 1, shape.baseAddress)
          q.strides = strides.baseAddress
          o.strides = strides.baseAddress
          return withUnsafePointer(to: &q) { q in
            withUnsafePointer(to: &o) { o in
              let both: [UnsafePointer<attune_tensor>?] = [q, o]
              return both.withUnsafeBufferPointer { tensors in
                var x = attune_exec()
                x.struct_size = UInt32(MemoryLayout<attune_exec>.size)
                x.tensors = tensors.baseAddress
                x.symbols = UnsafePointer(shape.baseAddress)
                return run(&x)
              }
            }
          }
        }
      }
    }
  }
  return status == ATTUNE_OK && output == [1, 2, 3, 4]
}
