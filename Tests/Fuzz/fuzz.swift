/// libFuzzer's entry: the first byte chooses a parser of single texts or a whole descriptor. Build and run with
/// Tests/Fuzz/run.
private nonisolated(unsafe) let target = try? FuzzTarget()

@c public func LLVMFuzzerTestOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
  guard let data, count > 0, let target else { return 0 }
  let rest = UnsafeBufferPointer(start: data + 1, count: count - 1)
  let choice = data[0] % (FuzzTarget.parsers + 1)
  if choice < FuzzTarget.parsers { target.parse(rest, with: choice) } else { target.compile(rest) }
  return 0
}
