import Glibc

/// Aligned columns for people. The last column is wrapped so that lines stay within 100 characters.
struct Table {
  var header: [String]
  var rows: [[String]] = []
  /// Columns of numbers, aligned to the right.
  var right: Set<Int> = []
  /// Text below a row, over the whole width.
  private var notes: [Int: String] = [:]
  private let width = 100

  init(_ header: String..., right: Set<Int> = []) {
    self.header = header
    self.right = right
  }

  mutating func add(_ row: String...) { rows.append(row) }
  /// Text below the last row.
  mutating func below(_ note: String) { notes[rows.count] = note }

  var text: String {
    let all = [header] + rows
    let columns = header.count
    let widths = (0..<columns).map { c in all.map { c < $0.count ? $0[c].count : 0 }.max() ?? 0 }
    let hang = widths.dropLast().reduce(0) { $0 + $1 + 2 }
    return all.enumerated().map { number, row in
      var line = ""
      for (c, cell) in row.enumerated() where c < columns {
        let pad = String(repeating: " ", count: max(widths[c] - cell.count, 0))
        let isLast = c == columns - 1
        if right.contains(c) {
          line += pad + cell
        } else {
          line += isLast ? wrap(cell, width: max(width - hang, 30), indent: hang) : cell + pad
        }
        if !isLast { line += "  " }
      }
      while line.last == " " { line.removeLast() }
      return notes[number].map { "\(line)\n    " + wrap($0, width: width - 4, indent: 6) } ?? line
    }.joined(separator: "\n")
  }
}

/// Breaks `text` at spaces so that lines hold at most `width` characters; later lines start with `indent` spaces. A word
/// that fills a line by itself (an expression has no spaces) is broken in front of its `&&` and `||`.
func wrap(_ text: String, width: Int, indent: Int) -> String {
  var out = ""
  var used = 0
  func put(_ piece: Substring, glued: Bool) {
    let gap = glued || used == 0 ? 0 : 1
    if used > 0 && used + gap + piece.count > width {
      out += "\n" + String(repeating: " ", count: indent)
      used = 0
    } else if gap > 0 {
      out += " "
      used += 1
    }
    out += piece
    used += piece.count
  }
  for word in text.split(separator: " ", omittingEmptySubsequences: true) {
    if word.count <= width {
      put(word, glued: false)
    } else {
      for (i, piece) in terms(word).enumerated() { put(piece, glued: i > 0) }
    }
  }
  return out
}

/// The pieces of an expression, each but the first beginning with its `&&` or `||`.
private func terms(_ word: Substring) -> [Substring] {
  var pieces: [Substring] = []
  var begin = word.startIndex
  var at = begin
  while at < word.endIndex {
    if at > begin, word[at...].hasPrefix("&&") || word[at...].hasPrefix("||") {
      pieces.append(word[begin..<at])
      begin = at
    }
    at = word.index(after: at)
  }
  return pieces + [word[begin...]]
}

/// `%.*f`, without the Foundation formatter.
func fixed(_ value: Double, _ digits: Int) -> String { printf("%.*f", Int32(digits), value) }
/// `%.2e`
func scientific(_ value: Double) -> String { printf("%.2e", value) }

/// The C formatter; `arguments` must fit `format`.
private func printf(_ format: String, _ arguments: any CVarArg...) -> String {
  withVaList(arguments) { list in
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 400) { buffer in
      guard let base = buffer.baseAddress, vsnprintf(base, buffer.count, format, list) >= 0 else { return "?" }
      return String(cString: base)
    }
  }
}

/// Nanoseconds as people read them.
func duration(_ ns: Double) -> String {
  switch ns {
  case ..<1e3: "\(fixed(ns, 0)) ns"
  case ..<1e6: "\(fixed(ns / 1e3, 1)) us"
  case ..<1e9: "\(fixed(ns / 1e6, 2)) ms"
  default: "\(fixed(ns / 1e9, 2)) s"
  }
}
