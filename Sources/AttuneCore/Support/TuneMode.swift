/// How hard to look for the fastest kernel: ATTUNE_TUNE_* of attune.h, and their words in the environment and in files.
package enum TuneMode: Int32, Sendable, CaseIterable {
  case off = 1
  case frozen, estimate, measure, patient, exhaustive
  package var name: String { String(describing: self) }
}
