import AttuneCore

/// The candidates of a problem as horizontal bars, fastest first.
struct CandidateChart {
  let title: String
  let explanation: Explanation

  var svg: String {
    let measured = explanation.lines.filter { $0.trial.map { $0.medianNs > 0 } ?? false }
    let lines = measured.isEmpty ? explanation.lines.filter { $0.estimate > 0 } : measured
    let times = lines.map { line in line.trial.map(\.medianNs).flatMap { $0 > 0 ? $0 : nil } ?? line.estimate }
    // Beyond four times the best a longer bar says nothing more.
    let most = min(times.max() ?? 1, 4 * (times.min() ?? 1))
    let row = 22
    let left = 330
    let width = 420
    let top = 56
    var out = """
      <svg xmlns="http://www.w3.org/2000/svg" width="\(left + width + 110)" height="\(top + row * max(lines.count, 1) + 20)" \
      font-family="sans-serif" font-size="12">
      <rect width="100%" height="100%" fill="white"/>
      <text x="12" y="20" font-size="14">\(escapedXML(title))</text>
      <text x="12" y="40" fill="#555">\(measured.isEmpty ? "estimates of the model" : "medians, in time")</text>

      """
    for (i, line) in lines.enumerated() {
      let y = top + i * row
      let ns = times[i]
      let isChosen = line.candidate == explanation.chosen
      let length = max(2, Int(Double(width) * min(ns / max(most, 1), 1)))
      let color = isChosen ? "#1b7837" : line.trial?.status == .ok ? "#7b9bb5" : "#c9c9c9"
      let name = [line.candidate.kernel, line.candidate.knobs, "\(line.candidate.workers)t"].filter { !$0.isEmpty }
      out += """
        <text x="\(left - 8)" y="\(y + 14)" text-anchor="end"\(isChosen ? " font-weight=\"bold\"" : "")>\
        \(escapedXML(name.joined(separator: " ")))</text>
        <rect x="\(left)" y="\(y + 3)" width="\(length)" height="\(row - 7)" fill="\(color)"/>
        <text x="\(left + length + 6)" y="\(y + 14)" fill="#333">\(duration(ns))</text>

        """
    }
    return out + "</svg>\n"
  }
}
