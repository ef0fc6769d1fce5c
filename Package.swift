// swift-tools-version: 6.1
// The host, the command line and their tests. Operators are built by plugins/plugins.mk and named nowhere here.
import PackageDescription

let root = Context.packageDirectory
/// `ATTUNE_SAN=1` for `--sanitize` builds: a shared library may not be linked with `-z defs` then.
let sanitized = Context.environment["ATTUNE_SAN"] != nil

let libraryFlags =
  ["-Xlinker", "-soname=libattune.so.1", "-Xlinker", "-z", "-Xlinker", "nodelete"]
  + (sanitized
    ? []
    : [
      "-use-ld=lld", "-Xlinker", "--version-script=\(root)/Sources/Attune/libattune.map",
      "-Xlinker", "-z", "-Xlinker", "defs",
    ])

let package = Package(
  name: "attune",
  products: [
    .library(name: "attune", type: .dynamic, targets: ["Attune"]),
    .executable(name: "attune-cli", targets: ["attune-cli"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2")
  ],
  targets: [
    // The contract: headers in include/, layout assertions in one C file.
    .target(
      name: "CAttune", path: ".", sources: ["Sources/CAttune/abi_check.c"], publicHeadersPath: "include"),
    // Thread pool, CPU features, stack frames, arenas, libffi: what Swift cannot do or should not.
    .target(name: "CRuntime", dependencies: ["CAttune"], cSettings: [.unsafeFlags(["-O2"])]),
    .target(
      name: "AttuneCore", dependencies: ["CAttune", "CRuntime"],
      linkerSettings: [.linkedLibrary(":libffi_pic.a")]),
    // One line of Swift that carries the linker flags of libattune.so; tests must not inherit them.
    .target(
      name: "Attune", dependencies: ["AttuneCore"], exclude: ["libattune.map"],
      linkerSettings: [.unsafeFlags(libraryFlags)]),
    .executableTarget(
      name: "attune-cli",
      dependencies: [
        "AttuneCore", "CAttune", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .testTarget(
      name: "AttuneCoreTests", dependencies: ["AttuneCore", "CAttune", "CRuntime"],
      exclude: ["Descriptors", "Expressions.json", "Presets.json"]),
  ],
  swiftLanguageModes: [.v6],
  cLanguageStandard: .c11
)
