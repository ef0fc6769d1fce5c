/// An attention map as a picture: light = a small part of the row, dark = all of it, white = not read.
struct MapDrawing {
  let title: String
  let map: AttentionMap

  /// Half a decade each, up to these parts of a row; what is larger has the last colour.
  private static let bounds = [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1]
  private static let colors = ["#d6e6f4", "#abcfe6", "#82badb", "#5aa2cf", "#3787c0", "#1b69af", "#084488", "#08264d"]
  private static let letters = Array(" .:-=+*#@")

  var summary: String {
    let columns = map.keyEdges.count - 1
    let keys = (map.keyEdges.last ?? 0) / max(columns, 1)
    let what = keys == 1 ? "\(columns) keys" : "\(columns) blocks of \(keys) keys"
    return "a row of the output reads \(fixed(100 * map.share, 1)) % of the \(what)"
  }

  /// For a terminal: a line per block of queries.
  var text: String {
    let lines = map.parts.map { row in
      let line = row.map { String(MapDrawing.letters[MapDrawing.level($0) ?? 0]) }.joined()
      return "|\(line)|"
    }
    return ([title, summary] + lines).joined(separator: "\n")
  }

  var svg: String {
    let (rows, columns) = (map.parts.count, map.keyEdges.count - 1)
    let side = max(2, 512 / max(rows, columns))
    let (width, height) = (side * columns, side * rows)
    let heading = wrap(title, width: 64, indent: 0).split(separator: "\n").map(String.init)
    let (left, top) = (56, 34 + 18 * heading.count)
    let total = (width: max(left + width + 24, 592), height: top + height + 86)
    var out = """
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(total.width) \(total.height)" width="\(total.width)" \
      height="\(total.height)" font-family="sans-serif" font-size="12" role="img">
      <title>\(escapedXML(title)): \(summary)</title>
      <rect width="100%" height="100%" fill="white"/>

      """
    for (i, line) in heading.enumerated() {
      out += "<text x=\"\(left)\" y=\"\(20 + 18 * i)\" font-size=\"14\">\(escapedXML(line))</text>\n"
    }
    out += "<text x=\"\(left)\" y=\"\(top - 16)\" fill=\"#555\">\(summary)</text>\n"
    out += "<g transform=\"translate(\(left) \(top)) scale(\(side))\" shape-rendering=\"crispEdges\">\n"
    for (level, path) in paths() { out += "<path fill=\"\(MapDrawing.colors[level])\" d=\"\(path)\"/>\n" }
    out += "</g>\n"
    out += """
      <rect x="\(left)" y="\(top)" width="\(width)" height="\(height)" fill="none" stroke="#555"/>
      <text x="\(left - 6)" y="\(top + 10)" text-anchor="end">0</text>
      <text x="\(left - 6)" y="\(top + height)" text-anchor="end">\(map.queryEdges.last ?? 0)</text>
      <text x="\(left - 12)" y="\(top + height / 2)" text-anchor="middle" \
      transform="rotate(-90 \(left - 12) \(top + height / 2))">query</text>
      <text x="\(left)" y="\(top + height + 16)">0</text>
      <text x="\(left + width)" y="\(top + height + 16)" text-anchor="end">\(map.keyEdges.last ?? 0)</text>
      <text x="\(left + width / 2)" y="\(top + height + 16)" text-anchor="middle">key</text>

      """
    return out + legend(left, top + height + 34) + "</svg>\n"
  }

  private func legend(_ x: Int, _ y: Int) -> String {
    let step = 44
    var out = "<rect x=\"\(x)\" y=\"\(y)\" width=\"\(step)\" height=\"12\" fill=\"white\" stroke=\"#aaa\"/>\n"
    out += "<text x=\"\(x)\" y=\"\(y + 26)\">not read</text>\n"
    for (i, color) in MapDrawing.colors.enumerated() {
      let at = x + 64 + step * i
      out += "<rect x=\"\(at)\" y=\"\(y)\" width=\"\(step)\" height=\"12\" fill=\"\(color)\"/>\n"
      guard i < MapDrawing.bounds.count else { continue }
      out += "<text x=\"\(at + step)\" y=\"\(y + 26)\" text-anchor=\"middle\">\(MapDrawing.label(i))</text>\n"
    }
    return out + "<text x=\"\(x + 64)\" y=\"\(y + 42)\" fill=\"#555\">part of the output row</text>\n"
  }

  private static func label(_ i: Int) -> String {
    let bound = bounds[i]
    return bound >= 1 ? "1" : bound >= 0.1 ? fixed(bound, 1) : bound >= 0.01 ? fixed(bound, 2) : fixed(bound, 3)
  }

  /// Index of a colour; nil = not touched.
  private static func level(_ part: Double) -> Int? {
    part > 0 ? bounds.firstIndex { part <= $0 } ?? bounds.count : nil
  }

  /// One path per colour, of horizontal runs: far smaller than a rectangle per cell.
  private func paths() -> [(level: Int, path: String)] {
    var paths = [String](repeating: "", count: MapDrawing.colors.count)
    for (y, row) in map.parts.enumerated() {
      var x = 0
      while x < row.count {
        let level = MapDrawing.level(row[x])
        let end = row[x...].firstIndex { MapDrawing.level($0) != level } ?? row.count
        if let level { paths[level] += "M\(x) \(y)h\(end - x)v1h-\(end - x)z" }
        x = end
      }
    }
    return paths.enumerated().filter { !$1.isEmpty }.map { ($0, $1) }
  }
}
