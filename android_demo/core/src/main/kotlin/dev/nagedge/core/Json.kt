package dev.nagedge.core

/** A JSON value (RFC 8259). Android's own reader is no part of a JDK, and `core` runs on both. */
sealed class Json {
    data class Object(val members: Map<String, Json>) : Json()

    data class Array(val items: List<Json>) : Json()

    data class Text(val value: String) : Json()

    /** The number as it is written, so that no digit is lost. */
    data class Number(val written: String) : Json()

    data class Bool(val value: Boolean) : Json()

    object Null : Json()

    /** The member of an object; [Null] where there is none. */
    operator fun get(name: String): Json = members(name)[name] ?: Null

    fun members(what: String = "it"): Map<String, Json> =
        (this as? Object)?.members ?: throw JsonException("$what: expected an object, found ${brief()}")

    fun items(what: String): List<Json> =
        (this as? Array)?.items ?: throw JsonException("$what: expected a list, found ${brief()}")

    fun text(what: String): String =
        (this as? Text)?.value ?: throw JsonException("$what: expected a string, found ${brief()}")

    fun long(what: String): Long =
        (this as? Number)?.written?.toLongOrNull() ?: throw JsonException("$what: expected a whole number, found ${brief()}")

    fun int(what: String): Int = long(what).let {
        if (it in Int.MIN_VALUE..Int.MAX_VALUE) it.toInt() else throw JsonException("$what: $it is too large")
    }

    fun double(what: String): Double =
        (this as? Number)?.written?.toDoubleOrNull() ?: throw JsonException("$what: expected a number, found ${brief()}")

    fun floats(what: String): FloatArray = items(what).map { it.double(what).toFloat() }.toFloatArray()

    fun texts(what: String): List<String> = items(what).map { it.text(what) }

    /** Nothing for [Null], else what [read] makes of it. */
    fun <T> optional(read: (Json) -> T): T? = if (this === Null) null else read(this)

    private fun brief(): String = toString().take(40)

    /** The text of this value: one line, with the members in their order. */
    final override fun toString(): String = StringBuilder().also { write(it) }.toString()

    private fun write(out: StringBuilder) {
        when (this) {
            is Object -> {
                out.append('{')
                members.entries.forEachIndexed { index, (name, value) ->
                    if (index > 0) out.append(", ")
                    quote(name, out)
                    out.append(": ")
                    value.write(out)
                }
                out.append('}')
            }
            is Array -> {
                out.append('[')
                items.forEachIndexed { index, item ->
                    if (index > 0) out.append(", ")
                    item.write(out)
                }
                out.append(']')
            }
            is Text -> quote(value, out)
            is Number -> out.append(written)
            is Bool -> out.append(value)
            Null -> out.append("null")
        }
    }

    companion object {
        /** @throws JsonException for text that is not JSON. */
        fun parse(text: String): Json = JsonParser(text).document()

        /** Maps, lists, strings, numbers, booleans and null as JSON. */
        fun of(value: Any?): Json = when (value) {
            null -> Null
            is Json -> value
            is String -> Text(value)
            is Boolean -> Bool(value)
            is Double -> {
                require(!value.isNaN() && !value.isInfinite()) { "JSON has no number $value" }
                Number(value.toString())
            }
            is Float -> of(value.toDouble())
            is Int, is Long -> Number(value.toString())
            is Map<*, *> -> Object(value.entries.associate { (name, member) -> name as String to of(member) })
            is Iterable<*> -> Array(value.map { of(it) })
            is DoubleArray -> Array(value.map { of(it) })
            else -> throw IllegalArgumentException("no JSON for ${value.javaClass}")
        }

        private fun quote(text: String, out: StringBuilder) {
            out.append('"')
            for (char in text) {
                when {
                    char == '"' || char == '\\' -> out.append('\\').append(char)
                    char < ' ' -> out.append("\\u").append(char.code.toString(16).padStart(4, '0'))
                    else -> out.append(char)
                }
            }
            out.append('"')
        }
    }
}

class JsonException(message: String) : NagEdgeException(message)

private const val DEEPEST = 100

private class JsonParser(private val text: String) {
    private var at = 0

    fun document(): Json {
        val value = value(0)
        space()
        if (at != text.length) fail("something follows the document")
        return value
    }

    private fun value(depth: Int): Json {
        if (depth > DEEPEST) fail("it is nested more than $DEEPEST deep")
        space()
        return when (peek()) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> Json.Text(string())
            't' -> word("true", Json.Bool(true))
            'f' -> word("false", Json.Bool(false))
            'n' -> word("null", Json.Null)
            else -> number()
        }
    }

    private fun members(depth: Int): Json {
        at++
        val found = LinkedHashMap<String, Json>()
        space()
        if (peek() == '}') return Json.Object(found).also { at++ }
        while (true) {
            space()
            if (peek() != '"') fail("expected a name")
            val name = string()
            space()
            take(':')
            if (found.put(name, value(depth + 1)) != null) fail("the name \"$name\" is there twice")
            space()
            if (peek() == '}') return Json.Object(found).also { at++ }
            take(',')
        }
    }

    private fun items(depth: Int): Json {
        at++
        val found = ArrayList<Json>()
        space()
        if (peek() == ']') return Json.Array(found).also { at++ }
        while (true) {
            found.add(value(depth + 1))
            space()
            if (peek() == ']') return Json.Array(found).also { at++ }
            take(',')
        }
    }

    private fun string(): String {
        at++
        val found = StringBuilder()
        while (true) {
            val char = peek()
            at++
            when {
                char == '"' -> return found.toString()
                char == '\\' -> found.append(escaped())
                char < ' ' -> fail("a control character in a string")
                else -> found.append(char)
            }
        }
    }

    private fun escaped(): Char {
        val char = peek()
        at++
        return when (char) {
            '"', '\\', '/' -> char
            'b' -> '\b'
            'f' -> '\u000c'
            'n' -> '\n'
            'r' -> '\r'
            't' -> '\t'
            'u' -> {
                if (at + 4 > text.length) fail("it ends within a string")
                val code = text.substring(at, at + 4).toIntOrNull(16) ?: fail("a wrong escape")
                at += 4
                code.toChar()
            }
            else -> fail("a wrong escape")
        }
    }

    private fun number(): Json {
        val written = NUMBER.find(text, at)?.takeIf { it.range.first == at }?.value ?: fail("expected a value")
        at += written.length
        return Json.Number(written)
    }

    private fun word(word: String, value: Json): Json {
        if (!text.startsWith(word, at)) fail("expected $word")
        at += word.length
        return value
    }

    private fun take(char: Char) {
        if (peek() != char) fail("expected $char")
        at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("it ends too early")

    private fun space() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun fail(why: String): Nothing = throw JsonException("not JSON at character $at: $why")

    private companion object {
        val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
    }
}
