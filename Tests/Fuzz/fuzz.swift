/// libFuzzer's entry: the first byte chooses between single texts and whole descriptors. Build and run with Tests/Fuzz/run.
private nonisolated(unsafe) let target = try? FuzzTarget()

@c public func LLVMFuzzerTestOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
  guard let data, count > 0, let target else { return 0 }
  let rest = UnsafeBufferPointer(start: data + 1, count: count - 1)
  if data[0] & 1 == 0 { target.parse(rest) } else { target.compile(rest) }
  return 0
}
