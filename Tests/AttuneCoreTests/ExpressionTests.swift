import CAttune
import Foundation
import Testing

@testable import AttuneCore

/// The names and values that expression tests talk about; the same as in Tests/ABI/expressions.py.
struct ExpressionContext {
  static let symbols = ["B", "N", "Nk", "D", "U"], tensors = ["q", "k", "mask"]
  static let params: [Descriptor.Param] = [
    param("flag", .bool), param("count", .i64), param("ratio", .f64), param("mode", .enum), param("loose", .i64, false),
  ]
  static let scope = Scope(params: params, symbols: symbols, tensors: tensors)
  static let knobbed = scope.withKnobs(["bq", "bk"])

  let storage = BindStorage()
  private(set) var environment: Environment

  init() {
    environment = storage.frame.environment
    set(symbols: [2, 16, 48, 64, nil], params: [1, 64, 0.1, 1, 9], shapes: [[2, 8, 16, 64], nil, nil])
    set(dtypes: [1, 6, -1], present: 0b011, knobs: [32, 64], workers: 4)
  }

  mutating func set(symbols: [Int64?], params: [Double], shapes: [[Int64]?]) {
    environment.bound = 0
    for (i, x) in symbols.enumerated() {
      storage.symbols[i] = x ?? -1
      if x != nil { environment.bound |= 1 << UInt64(i) }
    }
    for (i, x) in params.enumerated() {
      storage.params[i] = i == 2 ? attune_value(i: 0, f: x) : attune_value(i: Int64(x), f: 0)
    }
    for (i, s) in shapes.enumerated() {
      storage.ranks[i] = -1
      storage.shapes[i] = nil
      if let s { storage.setShape(i, s) }
    }
  }

  mutating func set(dtypes: [Int32], present: UInt64, knobs: [Int64], workers: Int64) {
    for (i, d) in dtypes.enumerated() { storage.dtypes[i] = d }
    for (i, k) in knobs.enumerated() { storage.knobs[i] = k }
    environment.present = present
    environment.workers = workers
  }

  func value(_ text: String, in scope: Scope = knobbed) throws(Refusal) -> Result<Int64, Fault> {
    var copy = environment
    return try Expression(parsing: text, in: scope).value(&copy)
  }

  private static func param(_ name: String, _ kind: Descriptor.Param.Kind, _ structural: Bool = true)
    -> Descriptor.Param
  {
    var p = Descriptor.Param()
    p.name = name
    p.kind = kind
    p.isStructural = structural
    p.words = kind == .enum ? ["plain", "thd", "paged"] : []
    return p
  }
}

@Suite struct ExpressionTests {
  static let values: [(String, Int64)] = [
    ("1", 1), (" 1 + 2*3 ", 7), ("(1+2)*3", 9), ("10-3-2", 5), ("7/2", 3), ("-7/2", -4), ("-7%3", 2), ("7%3", 1),
    ("100/7/2", 7), ("2*3%4", 2), ("--5", 5), ("!0", 1), ("!5", 0), ("!!5", 1), ("-!0", -1),
    ("1<2", 1), ("2<=2", 1), ("2>2", 0), ("2>=2", 1), ("2==2", 1), ("2!=2", 0), ("1+1==2", 1), ("(1<2)==1", 1),
    ("1||0&&0", 1), ("(1||0)&&0", 0), ("2&&3", 1), ("0||7", 1),
    ("min(3,-4)", -4), ("max(3,-4)", 3), ("cdiv(7,2)", 4), ("cdiv(-7,2)", -3), ("cdiv(8,2)", 4), ("cdiv(0,5)", 0),
    ("9223372036854775807", .max), ("-9223372036854775807-1", .min), ("cdiv(-9223372036854775807-1,1)", .min),
    ("(-9223372036854775807-1)/1", .min), ("(-9223372036854775807-1)%7", 6), ("min(-9223372036854775807-1,0)", .min),
    ("B*N", 32), ("Nk%N==0", 1), ("bf16", 1), ("i8", 8), ("f32", 0),
    ("p.flag", 1), ("p.count/2", 32), ("p.mode==thd", 1), ("p.mode!=thd", 0), ("p.mode==paged", 0),
    ("p.ratio>0", 1), ("p.ratio<=0.1", 1), ("p.ratio== 0.1", 1), ("p.ratio!=-1", 1), ("p.ratio<-1e3", 0),
    ("p.ratio>=1.", 0),
    ("(p.mode==thd)+(p.ratio>0)", 2), ("!(p.mode==thd)", 0), ("p.mode==thd&&p.ratio>0||N/0", 1),
    ("ftrunc(p.ratio,Nk)", 4), ("ftrunc(p.ratio,-Nk)", -4), ("has(q)", 1), ("has(mask)", 0), ("dt(q)==bf16", 1),
    ("dt(mask)", -1), ("rank(q)", 4), ("rank(k)", -1), ("dim(q,1)", 8), ("dim(q,4)", -1), ("dim(q,-1)", -1),
    ("dim(k,0)", -1), ("dim(q,rank(q)-1)", 64), ("bytes(q)", 2 * 8 * 16 * 64 * 2), ("bytes(mask)", 0),
    ("k.bq+k.bk*$workers", 32 + 256), ("0&&U", 0), ("1||U", 1), ("1||1/0", 1), ("cdiv(N,k.bq)*B", 2),
  ]

  @Test(arguments: values) func evaluates(text: String, expected: Int64) throws {
    #expect(try ExpressionContext().value(text) == .success(expected))
  }

  static let withoutValue: [(String, Fault.Reason)] = [
    ("U", .unbound), ("U+1/0", .unbound), ("1/0+U", .division), ("1&&U", .unbound), ("0||U", .unbound),
    ("U&&0", .unbound),
    ("U||1", .unbound), ("1/0", .division), ("1%0", .division), ("cdiv(1,0)", .division), ("1/-1", .division),
    ("1%(B-N)", .division), ("9223372036854775807+1", .overflow), ("-9223372036854775807-2", .overflow),
    ("-(-9223372036854775807-1)", .overflow), ("4611686018427387904*2", .overflow), ("dim(q,U)", .unbound),
    ("ftrunc(p.ratio,U)", .unbound), ("min(U,1)", .unbound), ("!U", .unbound),
  ]

  @Test(arguments: withoutValue) func hasNoValue(text: String, expected: Fault.Reason) throws {
    guard case .failure(let fault) = try ExpressionContext().value(text) else {
      Issue.record("\(text) has a value")
      return
    }
    #expect(fault.reason == expected)
    #expect(fault.symbol == (expected == .unbound ? 4 : -1))
  }

  @Test(arguments: [1e300, -1e300, .infinity, .nan, 9.223372036854775807e18]) func ftruncFaultsBeyond64Bits(
    ratio: Double
  ) throws {
    var context = ExpressionContext()
    context.set(symbols: [2, 16, 48, 64, nil], params: [1, 64, ratio, 1, 9], shapes: [])
    #expect(try context.value("ftrunc(p.ratio,1)") == .failure(Fault(reason: .overflow)))
  }

  @Test func ftruncReachesTheSmallestNumber() throws {
    var context = ExpressionContext()
    context.set(symbols: [2, 16, 48, 64, nil], params: [1, 64, -0x1p63, 1, 9], shapes: [])
    #expect(try context.value("ftrunc(p.ratio,1)") == .success(.min))
  }

  @Test func bytesFaultsOnlyWhenTheProductIsTooLarge() throws {
    var context = ExpressionContext()
    let huge = Int64(1) << 40
    context.set(symbols: [], params: [], shapes: [[huge, huge, 0], [huge, huge]])
    #expect(try context.value("bytes(q)") == .success(0))
    #expect(try context.value("bytes(k)") == .failure(Fault(reason: .overflow)))
  }

  static let refused: [(String, String)] = [
    ("", "end"), ("1+", "end"), ("1 2", "nothing more"), ("(1", "close expected"), ("1)", "nothing more"),
    ("1<2<3", "follow a comparison"),
    ("1==2!=0", "follow a comparison"), ("p.mode==thd+1", "follow a comparison"),
    ("p.ratio>1*2", "follow a comparison"), ("a", "unknown word a"), ("B.", "cannot read"),
    ("1.5", "expected instead of"), ("#", "cannot read"),
    ("9223372036854775808", "64 bits"), ("p.none", "no parameter none"), ("p.loose", "not structural"),
    ("p.ratio", "left of"),
    ("p.mode", "left of"), ("p.ratio+1", "left of"), ("-p.ratio", "left of"), ("!p.mode", "left of"),
    ("(p.mode)==thd", "left of"),
    ("p.ratio>B", "only with a number"), ("p.ratio>inf", "only with a number"), ("p.ratio>1e999", "too large"),
    ("p.ratio&&1", "left of"), ("1&&p.ratio", "left of"), ("p.mode<thd", "only == and !="),
    ("p.mode==f32", "one of plain, thd"),
    ("thd==p.mode", "unknown word thd"), ("0<p.ratio", "left of"), ("k.none", "k.none"), ("has(z)", "no tensor z"),
    ("has(1)", "a tensor expected"), ("dim(q)", "comma expected"), ("min(1)", "comma expected"),
    ("sin(1)", "no function sin"),
    ("ftrunc(p.count,1)", "f64 parameter"), ("ftrunc(1,1)", "f64 parameter"), ("min(1,2,3)", "close expected"),
    ("1|2", "cannot read"),
    ("\u{e9}", "cannot read"), ("1\0", "cannot read"), (String(repeating: "1", count: 257), "longer than 256"),
    ("1" + String(repeating: "+1", count: 64), "more than 128 nodes"),
    (String(repeating: "(", count: 200), "more than 128"),
    (String(repeating: "-", count: 200) + "1", "more than 128"), (String(repeating: "!", count: 250), "more than 128"),
  ]

  @Test(arguments: refused) func refuses(text: String, sentence: String) throws {
    let refusal = #expect(throws: Refusal.self) { try ExpressionContext().value(text) }
    #expect(refusal?.code == .load)
    #expect(refusal?.message.contains(sentence) == true, "\(refusal?.message ?? "parsed")")
  }

  @Test func seesOnlyItsScope() throws {
    let context = ExpressionContext()
    let plain = ExpressionContext.scope
    #expect(throws: Refusal.self) { try context.value("k.bq", in: plain) }
    #expect(throws: Refusal.self) { try context.value("$workers", in: plain) }
    #expect(throws: Refusal.self) { try context.value("B", in: plain.withoutSymbols()) }
    #expect(throws: Refusal.self) { try context.value("dim(q,B)", in: plain.withoutSymbols()) }
    #expect(try context.value("has(q)&&p.mode==thd", in: plain.withoutSymbols()) == .success(1))
    #expect(try context.value("p.loose", in: plain.withEveryParameter()) == .success(9))
  }

  @Test func takesExactlyTheLimits() throws {
    let context = ExpressionContext()
    // 64 atoms and 63 operators: one more operator would need one more atom.
    #expect(try context.value("1" + String(repeating: "+1", count: 63)) == .success(64))
    #expect(try context.value(String(repeating: "-", count: 127) + "1") == .success(-1))
    #expect(try context.value(String(repeating: " ", count: 255) + "1") == .success(1))
  }

  /// Children stand before their parents, so that a reader can go through the nodes once.
  @Test func rootIsLast() throws {
    let nodes = try Expression(parsing: "min(B+1,dim(q,N))*-D", in: ExpressionContext.scope).nodes
    #expect(nodes.last?.kind == .multiply)
    for (i, node) in nodes.enumerated() where node.kind == .multiply || node.kind == .min || node.kind == .add {
      #expect(Int(node.a) < i && Int(node.b) < i)
    }
  }

  /// Every row of a file that the executable model wrote (Tests/ABI/expressions.py).
  @Test func agreesWithTheModel() throws {
    let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Expressions.json")
    let data = try JSON(JSONSerialization.jsonObject(with: Data(contentsOf: file)))
    let contexts = data["environments"].array.map { e in
      var c = ExpressionContext()
      c.set(
        symbols: e["symbols"].array.map { $0.isNull ? nil : $0.integer }, params: e["params"].array.map(\.real),
        shapes: e["shapes"].array.map { $0.isNull ? nil : $0.array.map(\.integer) })
      let present = e["present"].array.enumerated().reduce(UInt64(0)) {
        $0 | UInt64($1.element.integer) << UInt64($1.offset)
      }
      c.set(
        dtypes: e["dtypes"].array.map { Int32($0.integer) }, present: present, knobs: e["knobs"].array.map(\.integer),
        workers: e["workers"].integer)
      return c
    }
    let rows = data["rows"].array.map(\.array)
    #expect(rows.count == 4000 && contexts.count == 24)
    for row in rows {
      let text = row[0].string
      let expected = row[2].optional ?? "\(row[2].integer)"
      #expect(outcome(text, contexts[Int(row[1].integer)]) == expected, "\(text)")
    }
  }

  private func outcome(_ text: String, _ context: ExpressionContext) -> String {
    guard let result = try? context.value(text) else { return "bad" }
    switch result {
    case .success(let x): return "\(x)"
    case .failure(let fault): return "\(fault.reason)"
    }
  }
}
