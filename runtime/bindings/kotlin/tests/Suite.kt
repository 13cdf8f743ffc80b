// The Python suite's list, in Kotlin on the JVM. `runtime/bindings/uniffi/tests/kotlin.rs` compiles it and says what the
// servers do.
import dev.margay.*
import java.io.File
import java.time.Duration
import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread
import kotlin.math.abs
import kotlinx.coroutines.*
import kotlinx.coroutines.flow.toList

// The key of RFC 8032's first test, with which nobody has signed the toy.
const val STRANGER = "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
const val QUESTION = "I am Ada Lovelace, ada@example.com"

val expected: String = System.getenv("MARGAY_EXPECTED")
val plain: String = System.getenv("MARGAY_PLAIN_BUNDLE")
val servers = System.getenv("MARGAY_SERVERS").trim().lines().associate { it.substringBefore(' ') to it.substringAfter(' ') }
val bundle = Bundle.open(System.getenv("MARGAY_BUNDLE"))
val engine = Engine.load(bundle, DeviceOptions(threads = 1u))

fun request(task: String? = null, sampling: Sampling? = null, cancel: Cancel? = null, deadline: Duration? = null) =
    Request(
        listOf(Message("user", QUESTION)), task = task, maxTokens = 12u, sampling = sampling, cancel = cancel,
        deadline = deadline,
    )

open class Tokens(private val fails: Boolean = false) : TokenProvider {
    val renewed = mutableListOf<Boolean>()

    override fun token(renewed: Boolean): String {
        this.renewed.add(renewed)
        if (fails) throw CallbackException.Failed("the key store is locked")
        return if (renewed) "second-token" else "first-token"
    }
}

class Announcing(private val asked: () -> Unit) : Tokens() {
    override fun token(renewed: Boolean): String = super.token(renewed).also { asked() }
}

class Names(private val fails: Boolean = false) : Redactor {
    override fun redact(text: String): List<Redaction> {
        if (fails) throw ArithmeticException("that nobody foresaw")
        return listOf(Redaction("NAME", "Ada Lovelace"))
    }
}

class Listener(private val then: (Listener) -> Boolean = { true }) : TokenListener {
    val tokens = mutableListOf<Token>()

    override fun onToken(token: Token): Boolean {
        tokens.add(token)
        return then(this)
    }
}

fun cascade(
    server: String, tokens: TokenProvider = Tokens(), names: Redactor = Names(),
    then: OnCloudFailure = OnCloudFailure.FAIL, on: Engine = engine,
): Cascade {
    val roots = File(System.getenv("MARGAY_AUTHORITIES")).readText()
    val options = CloudOptions(servers.getValue(server), "large", redactPatterns = true, rootsPem = roots, attempts = 1u)
    return Cascade(on, Cloud(options, tokens, names), CascadeOptions(then))
}

fun standing(events: List<StreamEvent>): String = events.fold("") { text, event ->
    when (event) {
        is StreamEvent.Token -> text + event.text
        is StreamEvent.Superseded -> ""
        is StreamEvent.Done -> text
    }
}

fun <T> same(found: T, wanted: T) = check(found == wanted) { "$found is not $wanted" }

inline fun <reified E : Throwable> fails(work: () -> Unit): E {
    try {
        work()
    } catch (error: Throwable) {
        if (error is E) return error
        throw error
    }
    error("it did not fail")
}

val tests = mapOf<String, () -> Unit>(
    "a bundle says what it is" to {
        same(listOf(bundle.name(), bundle.contextLength(), bundle.hasPolicy()), listOf("toy", 640uL, true))
        same(Bundle.open(plain).hasPolicy(), false)
    },
    "it generates and tells each token" to {
        val listener = Listener()
        val generation = engine.generateBlocking(request("keep"), listener)
        same(generation.text, expected)
        same(listener.tokens.joinToString("") { it.text }, expected)
        same(generation.verdict to generation.finish, Verdict.KEEP to "length")
        same(runBlocking { engine.generate(request("keep")) }.text, expected)
    },
    "an unsure answer is stopped early" to {
        val generation = engine.generateBlocking(request())
        same(generation.verdict to generation.reason, Verdict.DEFER to "early-low-confidence")
    },
    "a seed draws the same again" to {
        val sampling = Sampling(temperature = 1f, topK = 20u, seed = 7uL)
        val both = List(2) { engine.generateBlocking(request("keep", sampling)) }
        same(both[0].text, both[1].text)
        same(both[0].seed, 7uL)
    },
    "a listener ends the answer by word or by failing" to {
        same(engine.generateBlocking(request("keep"), Listener { it.tokens.size < 2 }).tokenIds.size, 2)
        same(engine.generateBlocking(request("keep"), Listener { error("broken") }).finish, "caller")
    },
    "a listener that asks is refused instead of waiting for itself" to {
        var refused = ""
        engine.generateBlocking(request("keep"), Listener {
            refused = fails<MargayException.InvalidRequest> { engine.generateBlocking(request("keep")) }.detail
            false
        })
        same(refused, "a listener must not ask a model: it would wait for itself")
    },
    "it chooses" to {
        val choice = engine.chooseBlocking(request(), listOf("alarm", "weather", "music"))
        same(choice.answers.indices.maxBy { choice.answers[it].logLikelihood }.toUInt(), choice.best)
        check(abs(choice.answers.sumOf { it.probability } - 1) < 1e-9)
        fails<MargayException.InvalidRequest> { engine.chooseBlocking(request(), emptyList()) }
    },
    "another thread cancels" to {
        val (cancel, reached, cancelled) = Triple(Cancel(), CountDownLatch(1), CountDownLatch(1))
        val stopper = thread { reached.await(); cancel.cancel(); cancelled.countDown() }
        fails<MargayException.Cancelled> {
            engine.generateBlocking(request("keep", cancel = cancel), Listener { reached.countDown(); cancelled.await(); true })
        }
        stopper.join()
        same(cancel.isCancelled(), true)
    },
    "a coroutine that is cancelled stops its query" to {
        runBlocking {
            val (begun, goOn) = CompletableDeferred<Unit>() to CountDownLatch(1)
            val listener = Listener { begun.complete(Unit); goOn.await(); true }
            val job = launch { engine.generate(request("keep"), listener) }
            begun.await()
            job.cancelAndJoin()
            goOn.countDown()
            same(engine.generate(request("keep")).text, expected)
            check(listener.tokens.size < 12)
        }
    },
    "a deadline ends a query" to {
        fails<MargayException.Deadline> { engine.generateBlocking(request("keep", deadline = Duration.ofNanos(1))) }
    },
    "a sure device answers alone" to {
        val tokens = Tokens()
        val answer = cascade("refuses-then-says", tokens).answerBlocking(request("keep"))
        same(listOf(answer.text, answer.origin, answer.reason), listOf(expected, Origin.LOCAL, null))
        same(answer.modelDigest, bundle.modelDigest())
        same(tokens.renewed.size, 0)
    },
    "a local question reaches no cloud" to {
        val tokens = Tokens()
        val both = cascade("refuses-then-says", tokens, then = OnCloudFailure.FALL_BACK_TO_LOCAL)
        same(both.answerLocalBlocking(request()).reason, "local-only")
        same(runBlocking { both.answerLocal(request()) }.text, expected)
        same(tokens.renewed.size, 0)
    },
    "an unsure device asks without names and with a new token" to {
        val tokens = Tokens()
        val answer = runBlocking { cascade("refuses-then-says", tokens).answer(request()) }
        same(answer.text to answer.origin, "hello Ada Lovelace, ada@example.com" to Origin.CLOUD)
        same(answer.cloudTokens, dev.margay.Tokens(3uL, 2uL))
        same(tokens.renewed, listOf(false, true))
    },
    "a file says it all" to {
        val answer = Cascade.configured(engine, System.getenv("MARGAY_CONFIGURATION")).answerBlocking(request())
        same(answer.text to answer.origin, "as the file says" to Origin.CLOUD)
        fails<MargayException.Io> { Cascade.configured(engine, "nowhere.toml") }
    },
    "a redactor that fails lets nothing out" to {
        same(cascade("says-what-was-redacted", names = Names(true)).answerBlocking(request()).text, QUESTION)
    },
    "it streams, takes back and goes on from the cloud" to {
        val events = cascade("streams").streamBlocking(request("late"), StreamMode.OPTIMISTIC).events().toList()
        same((events.first() as StreamEvent.Token).origin, Origin.LOCAL)
        same(events.filterIsInstance<StreamEvent.Superseded>().map { it.reason }, listOf<String?>("low-confidence"))
        same(standing(events), "book a flight")
        same((events.last() as StreamEvent.Done).answer.text, "book a flight")
    },
    "it streams as a flow" to {
        val events = runBlocking { cascade("streams").stream(request(), StreamMode.HOLD).events().toList() }
        same(events.size to standing(events), 4 to "book a flight")
    },
    "a stream that is let go of frees the engine" to {
        val stream = cascade("streams").streamBlocking(request("late"), StreamMode.OPTIMISTIC)
        check(stream.next() is StreamEvent.Token)
        stream.end()
        same(stream.next(), null)
        same(engine.generateBlocking(request("keep")).text, expected)
    },
    "a cut stream has what came" to {
        val error = fails<MargayException> { cascade("is-cut").streamBlocking(request(), StreamMode.HOLD).events().toList() }
        same(if (error is MargayException.Truncated) error.partialText else (error as MargayException.Connect).partialText, "book ")
    },
    "a failing cloud is an error or beside the device's answer" to {
        fails<MargayException.Server> { cascade("fails").answerBlocking(request()) }
        val answer = cascade("fails", then = OnCloudFailure.FALL_BACK_TO_LOCAL).answerBlocking(request())
        same(answer.text to (answer.cloudError is MargayException.Server), expected to true)
        same(cascade("fails", then = OnCloudFailure.ABSTAIN).answerBlocking(request()).origin, Origin.ABSTAINED)
    },
    "without a token nothing is asked" to {
        val error = fails<MargayException.Unauthorized> { cascade("streams", Tokens(true)).answerBlocking(request()) }
        check("the key store is locked" in error.detail) { error.detail }
    },
    "another thread cancels a silent cloud" to {
        val (cancel, asked) = Cancel() to CountDownLatch(1)
        val stopper = thread { asked.await(); cancel.cancel() }
        fails<MargayException.Cancelled> {
            cascade("is-silent", Announcing { asked.countDown() }).answerBlocking(request(cancel = cancel))
        }
        stopper.join()
    },
    "a coroutine that is cancelled leaves a silent cloud" to {
        runBlocking {
            val asked = CompletableDeferred<Unit>()
            val both = cascade("is-silent", Announcing { asked.complete(Unit) })
            val job = launch { both.answer(request()) }
            asked.await()
            job.cancelAndJoin()
            same(both.answer(request("keep")).text, expected)
        }
    },
    "many ask at once" to {
        val both = cascade("fails", then = OnCloudFailure.FALL_BACK_TO_LOCAL)
        val answers = runBlocking { List(16) { async { both.answer(request("keep")).text } }.awaitAll() }
        same(answers.toSet(), setOf(expected))
    },
    "what is wrong is said" to {
        check("nowhere" in fails<MargayException.Io> { Bundle.open("/nowhere") }.detail)
        fails<MargayException.Signature> { Bundle.open(plain, BundleOptions(listOf(STRANGER), requireSignature = true)) }
        fails<MargayException.Memory> { Engine.load(bundle, DeviceOptions(memoryCap = 1uL)) }
        fails<MargayException.InvalidRequest> { engine.generateBlocking(request(sampling = Sampling(temperature = -1f))) }
        fails<MargayException.InvalidRequest> { Cloud(CloudOptions("http://127.0.0.1/v1", "large")) }
        fails<MargayException.Tls> { Cloud(CloudOptions("https://127.0.0.1/v1", "large", rootsPem = "none")) }
        val without = Engine.load(Bundle.open(plain), DeviceOptions(threads = 1u))
        check("no policy" in fails<MargayException.InvalidRequest> { cascade("fails", on = without) }.detail)
    },
    "an object after its end is refused" to {
        val ended = Bundle.open(plain)
        ended.close()
        fails<IllegalStateException> { ended.name() }
        fails<IllegalStateException> { Engine.load(ended) }
    },
)

fun main() {
    for ((name, test) in tests) {
        try {
            test()
        } catch (error: Throwable) {
            throw AssertionError(name, error)
        }
    }
    println("${tests.size} tests held")
}
