// What Swift has for streams, on top of what is generated.

extension AnswerStream {
    /// The events as they come; the end of whoever iterates cancels the query.
    public func events() -> AsyncThrowingStream<StreamEvent, Error> {
        AsyncThrowingStream { continuation in
            let task = Task {
                do {
                    while let event = try await self.next() {
                        continuation.yield(event)
                    }
                    continuation.finish()
                } catch {
                    continuation.finish(throwing: error)
                }
            }
            continuation.onTermination = { _ in
                task.cancel()
                self.end()
            }
        }
    }
}
