/// Small text work on descriptors. Everything is ASCII by grammar; other bytes only ever end up in refusals.
package enum Words {
  /// Words a tensor or parameter may not have as its name: callers of every language use them for something else.
  package static let reserved: Set<String> = ["kernel", "outputs", "out", "entry", "params"]

  /// A name of the contract: a letter or `_`, then letters, digits or `_`, at most 63 characters.
  package static func isName(_ text: String) -> Bool {
    let bytes = text.utf8
    guard let first = bytes.first, bytes.count <= Limits.name, !Lexer.isDigit(first) else { return false }
    return bytes.allSatisfy(Lexer.isWord)
  }

  package static func trim(_ text: some StringProtocol) -> String { trim(Array(text.utf8)[...]) }

  private static func trim(_ bytes: ArraySlice<UInt8>) -> String {
    let front = bytes.drop(while: Lexer.isSpace)
    let end = front.lastIndex { !Lexer.isSpace($0) }.map { $0 + 1 } ?? front.startIndex
    return String(decoding: front[..<end], as: UTF8.self)
  }

  /// The pieces between separators outside parentheses and braces, without surrounding blanks.
  package static func split(_ text: String, at separator: Unicode.Scalar) -> [String] {
    let bytes = Array(text.utf8)
    let separator = UInt8(ascii: separator)
    var pieces: [String] = []
    var start = 0
    var depth = 0
    for (i, c) in bytes.enumerated() {
      if c == UInt8(ascii: "(") || c == UInt8(ascii: "{") { depth += 1 }
      if c == UInt8(ascii: ")") || c == UInt8(ascii: "}") { depth -= 1 }
      if c == separator, depth == 0 {
        pieces.append(trim(bytes[start..<i]))
        start = i + 1
      }
    }
    return pieces + [trim(bytes[start...])]
  }

  /// The pieces of a list in which empty pieces mean nothing: "a; b;" has two.
  package static func items(_ text: String, at separator: Unicode.Scalar) -> [String] {
    split(text, at: separator).filter { !$0.isEmpty }
  }

  /// Text before and behind the first separator, as written; nil without one.
  package static func halves(_ text: String, at separator: Character) -> (String, String)? {
    guard let i = text.firstIndex(of: separator) else { return nil }
    return (String(text[..<i]), String(text[text.index(after: i)...]))
  }

  package static func firstRepeated(_ names: [String]) -> String? {
    var seen: Set<String> = []
    return names.first { !seen.insert($0).inserted }
  }
}

/// Says where a refusal happened: `body`'s refusal with `place: ` before its sentence.
func at<T>(_ place: @autoclosure () -> String, _ body: () throws(Refusal) -> T) throws(Refusal) -> T {
  do throws(Refusal) {
    return try body()
  } catch {
    var refusal = error
    refusal.message = "\(place()): \(error.message)"
    throw refusal
  }
}

/// A registration check: E_LOAD with the sentence unless it holds.
func require(_ holds: Bool, _ sentence: @autoclosure () -> String) throws(Refusal) {
  guard holds else { throw Refusal(.load, "", sentence()) }
}
