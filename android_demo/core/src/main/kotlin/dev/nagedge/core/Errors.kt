package dev.nagedge.core

import java.io.IOException

/** What a person is told: what it is about, what was found, what was expected, and what helps. */
open class NagEdgeException(message: String, cause: Throwable? = null) : IOException(message, cause)

/** The exported bundle is missing, damaged, foreign, or newer than this program. */
class BundleException(message: String, cause: Throwable? = null) : NagEdgeException(message, cause)

/** A file of personal weights or examples is damaged, or belongs to another export. */
class WeightsException(message: String, cause: Throwable? = null) : NagEdgeException(message, cause)

/** A training step gave a loss or a weight that is not finite; the state is the one before the lesson. */
class DivergedException(message: String) : NagEdgeException(message)
