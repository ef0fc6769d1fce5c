/// The limits of ABI.md section 5. They bound work and recursion on text that comes from plugins and callers.
package enum Limits {
  package static let expression = 256, nodes = 128, shape = 256, lets = 512, name = 63
  package static let rank = 8, tensors = 64, symbols = 64, params = 64, rules = 32
  package static let entries = 16, presets = 32, kernels = 64, arguments = 64
  package static let knobs = 8, knobValues = 16, candidates = 4096
  package static let workers: UInt32 = 1024
}
