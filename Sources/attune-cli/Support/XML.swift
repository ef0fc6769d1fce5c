/// Text as XML wants it, between tags and in attributes.
func escapedXML(_ s: String) -> String {
  s.reduce(into: "") { out, c in
    switch c {
    case "&": out += "&amp;"
    case "<": out += "&lt;"
    case ">": out += "&gt;"
    case "\"": out += "&quot;"
    default: out.append(c)
    }
  }
}
