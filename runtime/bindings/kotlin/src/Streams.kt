// What Kotlin has for streams, on top of what is generated.
package dev.margay

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/** The events as a flow; it ends with `Done` or an exception, and its collector's end cancels the query. */
fun AnswerStream.events(): Flow<StreamEvent> = flow {
    try {
        while (true) emit(next() ?: break)
    } finally {
        end()
    }
}

/** The events one after the other, waiting for each. */
fun BlockingStream.events(): Sequence<StreamEvent> = generateSequence { next() }
