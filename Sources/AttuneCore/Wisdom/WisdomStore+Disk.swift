import CRuntime

/// When files are read and written. What is done to them is `WisdomFile`'s to know.
extension WisdomStore {
  /// Nanoseconds. Between two looks whether the file has changed, which also is the longest that saving is put off;
  /// between two attempts to save where one failed; for another thread of this process that is at the disk.
  private static let lookInterval: Int64 = 1_000_000_000, retryInterval: Int64 = 10_000_000_000
  private static let patience: Int64 = 3_000_000_000

  /// Saves what is not saved yet. Waits at most a few seconds.
  package func flush() { _ = save(isPatient: true) }

  /// Runs `body` with the disk to itself; what it says is logged afterwards, since a log may come back to this store.
  /// nil: another thread is there.
  private func onDisk<R>(isPatient: Bool, _ body: (_ say: (String) -> Void) -> R) -> R? {
    // What an inherited lock was guarding is on disk, and whole.
    let claim = isPatient ? diskLock.acquire(limit: WisdomStore.patience) : diskLock.tryAcquire()
    guard claim != nil else { return nil }
    var said: [String] = []
    let result = body { said.append($0) }
    diskLock.release()
    for sentence in said { log(.warning, "wisdom: \(sentence)") }
    return result
  }

  /// Reads the files when nobody has yet.
  func read() {
    guard withMemory({ !$0.isRead }) else { return }
    _ = onDisk(isPatient: true) { say in
      guard withMemory({ !$0.isRead }) else { return }
      let others = readOnly.map { path -> (path: String, book: WisdomBook, reason: String?) in
        do throws(WisdomFileFault) {
          return (path, try WisdomFile(path: path).read().book, nil)
        } catch {
          say("\(error.sentence): ignored")
          return (path, WisdomBook(), error.sentence)
        }
      }
      readOwn(say)
      withMemory { m in
        m.readOnly = others
        m.isRead = true
      }
    }
  }

  /// Reads the own file again if it has changed, and saves what has waited long enough. true: ask again.
  func lookAgain() -> Bool {
    guard let file else { return false }
    let now = crt_now_ns()
    let (isDue, isSaveDue, seen) = withMemory { m in
      let isDue = now &- m.lastLook >= WisdomStore.lookInterval
      if isDue { m.lastLook = now }
      return (isDue, !m.pending.isEmpty && now >= m.nextSave, m.seen)
    }
    if isSaveDue, save() == nil { return true }  // it has read the file too
    guard isDue, file.identity != seen else { return false }
    return onDisk(isPatient: false) { say in readOwn(say) } != nil
  }

  private func readOwn(_ say: (String) -> Void) {
    guard let file else { return }
    var contents = WisdomFile.Contents()
    var reason: String?
    do throws(WisdomFileFault) {
      contents = try file.read()
    } catch {
      contents.identity = file.identity
      if error.kind != .missing { reason = error.sentence }
    }
    adopt(contents, unreadable: reason, say)
  }

  /// `unreadable`: why there are no contents; what was known from an earlier reading stays.
  private func adopt(_ contents: WisdomFile.Contents, unreadable: String? = nil, _ say: (String) -> Void) {
    let isNews = withMemory { m in
      if unreadable == nil {
        m.book = contents.book
        m.book.join(m.pending)
      }
      m.seen = contents.identity
      m.lastLook = crt_now_ns()
      m.damaged = contents.damaged
      m.readReason = unreadable
      defer { m.hasToldDamage = m.hasToldDamage || contents.damaged > 0 }
      return !m.hasToldDamage
    }
    if let unreadable { complain(unreadable, say) }
    if contents.damaged > 0, isNews, let file {
      say("\(file.path) has \(contents.damaged) damaged line\(contents.damaged == 1 ? "" : "s"): skipped")
    }
  }

  /// Joins what is pending into the file, after `edit`, for which it saves even if nothing is pending. nil: done, or
  /// nothing to do. isPatient: waits for other threads and processes even where that was in vain before.
  func save(
    isPatient: Bool = false, isForced: Bool = false, _ edit: (inout WisdomBook) -> Void = { _ in }
  ) -> WisdomFileFault? {
    guard let file, isForced || withMemory({ !$0.pending.isEmpty }) else { return nil }
    let outcome: WisdomFileFault?? = onDisk(isPatient: isPatient) { say in
      // What could not be read is not written over, and not locked either: it may be anything.
      let identity = file.identity
      let (unreadable, waits) = withMemory { m in
        (m.seen == identity ? m.readReason : nil, isPatient || m.saveReason == nil)
      }
      if let unreadable { return WisdomFileFault(kind: .unwritable, sentence: unreadable, systemCode: 0) }
      return save(to: file, waits: waits, edit, say)
    }
    return outcome ?? WisdomFileFault(kind: .unwritable, sentence: "\(file.path) is being saved", systemCode: 0)
  }

  private func save(
    to file: WisdomFile, waits: Bool, _ edit: (inout WisdomBook) -> Void, _ say: (String) -> Void
  ) -> WisdomFileFault? {
    let pending = withMemory { m in
      defer { m.pending = WisdomBook() }
      return m.pending
    }
    let begin = crt_now_ns()
    do throws(WisdomFileFault) {
      let contents = try file.update(makesDirectory: makesDirectory, waits: waits) { book in
        edit(&book)
        book.join(pending)
      }
      adopt(contents, say)
      withMemory { m in
        m.saveReason = nil
        // However slow the disk, saving takes a tenth of the time at most.
        let end = crt_now_ns()
        m.nextSave = end &+ min((end &- begin) &* 10, WisdomStore.lookInterval)
      }
      return nil
    } catch {
      withMemory { m in
        m.pending.join(pending)
        m.saveReason = error.sentence
        m.nextSave = crt_now_ns() &+ WisdomStore.retryInterval
      }
      complain(error.sentence, say)
      return error
    }
  }

  /// Once: a tuner asks often, and nothing changes by repeating it.
  private func complain(_ sentence: String, _ say: (String) -> Void) {
    let isFirst = withMemory { m in
      defer { m.hasComplained = true }
      return !m.hasComplained
    }
    if isFirst { say("\(sentence): what is learnt stays in memory") }
  }
}
