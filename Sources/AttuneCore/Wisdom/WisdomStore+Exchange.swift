/// Files that go from hand to hand. Unlike the store's own file, what is wrong with them is the caller's to know.
extension WisdomStore {
  /// What became of the lines of an imported file.
  package struct Report: Equatable, Sendable {
    package var accepted = 0  // told something new
    package var duplicate = 0  // told nothing new
    package var foreignCPU = 0  // kept for the CPU they were measured on
    package var damaged = 0
    package var unknown = 0  // whole, of a kind this version does not know: kept
  }

  /// Joins a file into what is known. Read whole before anything is changed. E_NOT_FOUND: there is none. E_IO: it
  /// cannot be read. E_CORRUPT: it is no file of wisdom, or of a newer version.
  package func importFile(_ path: String) throws(Refusal) -> Report {
    let contents: WisdomFile.Contents
    do throws(WisdomFileFault) { contents = try WisdomFile(path: path).read() } catch { throw error.refusal }
    read()
    var report = Report(damaged: contents.damaged)
    withMemory { m in
      for line in contents.lines {
        let isNew = m.book.add(line)
        if isNew, file != nil { m.pending.add(line) }
        switch line {
        case .header: break
        case .unknown: report.unknown &+= 1
        case .tuned(let cpu, _), .quarantine(let cpu, _), .machine(let cpu, _):
          if cpu != self.cpu {
            report.foreignCPU &+= 1
          } else if isNew {
            report.accepted &+= 1
          } else {
            report.duplicate &+= 1
          }
        }
      }
      m.book.trim()
    }
    flush()
    return report
  }

  /// Writes everything known, the read-only files included, to a file of its own. E_IO.
  package func export(to path: String) throws(Refusal) {
    read()
    let fault = save(isPatient: true, isForced: true)
    if let file, let own = Path.resolved(file.path), own == Path.resolved(path) {
      // Replacing it would lose what others write meanwhile; it has just been brought up to date.
      if let fault { throw fault.refusal }
      return
    }
    let book = withMemory { m in
      var book = m.book
      for other in m.readOnly { book.join(other.book) }
      return book
    }
    do throws(WisdomFileFault) { try WisdomFile(path: path).replace(with: book) } catch { throw error.refusal }
  }

  /// Drops the records of an operator, nil: of all; what is quarantined stays so. Read-only files keep theirs. E_IO:
  /// the file still has them.
  package func forget(op: String?) throws(Refusal) {
    if let fault = drop({ $0.forget(op: op) }) { throw fault.refusal }
  }

  /// Something is remembered about the operator.
  package func knows(op: String) -> Bool {
    read()
    return withMemory { m in m.book.knows(op: op) || m.readOnly.contains { $0.book.knows(op: op) } }
  }
}

extension WisdomFileFault {
  var refusal: Refusal {
    let code: Status =
      switch kind {
      case .missing: .notFound
      case .notWisdom, .newer: .corrupt
      case .unreadable, .unwritable: .io
      }
    return Refusal(
      code, "path", sentence, detail: (0, Int64(systemCode)), source: systemCode == 0 ? .host : .system)
  }
}
