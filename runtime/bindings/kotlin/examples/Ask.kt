// Asks a bundle on this device, and a large model when the device is unsure:
//     java AskKt small.bundle https://llm.example.com/v1 large "wake me at six"     (CLOUD_TOKEN holds the key)
import dev.margay.*
import kotlinx.coroutines.runBlocking

object Environment : TokenProvider {
    override fun token(renewed: Boolean): String = System.getenv("CLOUD_TOKEN")
}

fun main(arguments: Array<String>) = runBlocking {
    val (bundle, endpoint, model, question) = arguments
    val engine = Engine.load(Bundle.open(bundle))
    val large = CloudOptions(endpoint, model, redactPatterns = true, platformRoots = true)
    val cascade = Cascade(engine, Cloud(large, Environment))
    cascade.stream(Request(listOf(Message("user", question))), StreamMode.OPTIMISTIC).events().collect { event ->
        when (event) {
            is StreamEvent.Token -> print(event.text)
            is StreamEvent.Superseded -> println(" ... no, wait:")
            is StreamEvent.Done -> with(event.answer) {
                val origin = origin.name.lowercase()
                println("\n[%s: score %.2f, threshold %.2f, %s]".format(origin, score, threshold, reason ?: "sure enough"))
            }
        }
    }
}
