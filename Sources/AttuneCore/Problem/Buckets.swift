extension BucketRule {
  /// The class of a size: the next value of the rule that is not smaller. Sizes beyond the last power of two that
  /// fits are their own class; so are 0 and 1.
  package func round(_ size: Int64) -> Int64 {
    // A switch: comparing rules would compare their names.
    switch self {
    case .exact: return size
    case .pow2: return BucketRule.power(size)
    case .half2:  // also the values half way between two powers: 3, 6, 12, ...
      let power = BucketRule.power(size)
      let middle = power / 4 * 3
      return power >= 4 && size <= middle ? middle : power
    }
  }

  /// The sizes of a class that `round` gave: above the first, up to the second.
  package func sizes(of size: Int64) -> (above: Int64, upTo: Int64) {
    let alone = (above: size &- 1, upTo: size)
    guard size > 1, size <= 1 << 62 else { return alone }
    switch self {
    case .exact: return alone
    case .pow2: return (size / 2, size)
    case .half2:
      if size & (size - 1) != 0 { return (size / 3 * 2, size) }
      return size < 4 ? alone : (size / 4 * 3, size)
    }
  }

  @inline(__always)
  private static func power(_ size: Int64) -> Int64 {
    size > 1 && size <= 1 << 62 ? 1 << Int64(Int64.bitWidth - (size - 1).leadingZeroBitCount) : size
  }
}

extension Entry {
  /// Symbols rounded up to their tuning bucket; unlisted and unbound (-1) ones stay as they are.
  package func bucket(_ symbols: [Int64]) -> [Int64] {
    var classes = symbols
    for (symbol, rule) in buckets where symbol < classes.count { classes[symbol] = rule.round(classes[symbol]) }
    return classes
  }
}
