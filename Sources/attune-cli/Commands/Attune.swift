import ArgumentParser
import CAttune
import Glibc

@main
struct Attune: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "attune",
    abstract: "Attention operators from plugins, behind one C ABI.",
    discussion: """
      Exit codes: 0 success, 1 a check failed, 2 usage or input error (one line on stderr says what to do).
      --json prints one JSON document on stdout and nothing else.
      """,
    version: libraryVersion(),
    subcommands: [
      List.self, Describe.self, Run.self, Verify.self, Bench.self, Demo.self, Doctor.self, Tune.self, Explain.self,
      Map.self, Wisdom.self, TuneWorker.self,
    ])

  /// Instead of ArgumentParser's own: its exit code for usage errors is 64, and its message has several lines.
  static func main() {
    signal(SIGPIPE, SIG_IGN)
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch let failure as Failure {
      warn(failure.message)
      Glibc.exit(failure.code)
    } catch let error as LibraryError {
      warn("\(error.name): \(error.message)")
      Glibc.exit(2)
    } catch let code as ExitCode {
      Glibc.exit(code.rawValue)
    } catch {
      guard exitCode(for: error) != .success else {
        say(fullMessage(for: error))
        Glibc.exit(0)
      }
      warn(message(for: error).split(separator: "\n").joined(separator: " ") + " (see attune --help)")
      Glibc.exit(2)
    }
  }
}

/// "1.2.3" of the library behind the C API.
func libraryVersion() -> String {
  var major: UInt32 = 0
  var minor: UInt32 = 0
  var patch: UInt32 = 0
  guard attune_version(&major, &minor, &patch) == 0 else { return "unknown" }
  return "\(major).\(minor).\(patch)"
}

struct ThreadOption: ParsableArguments {
  @Option(help: "Threads to compute with.")
  var threads: Int?

  func validate() throws {
    if let threads, !(1...4096).contains(threads) { throw ValidationError("--threads must be 1 to 4096") }
  }
}

struct JSONOption: ParsableArguments {
  @Flag(help: "Print one JSON document and nothing else.")
  var json = false
}
