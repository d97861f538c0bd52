import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.kotlin.jvm)
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

kotlin {
    compilerOptions {
        allWarningsAsErrors = true
        jvmTarget = JvmTarget.JVM_1_8
        // Android 7 has the classes of Java 8; the compiler finds no others.
        freeCompilerArgs.add("-Xjdk-release=8")
    }
}

dependencies {
    compileOnly(libs.onnxruntime.jvm) // the app brings the library for Android
    testImplementation(libs.onnxruntime.jvm)
    testImplementation(libs.junit)
    testImplementation(libs.kotlin.test)
}

tasks.test {
    // What Python computed; without it the tests that compare with it are skipped. See README.md.
    providers.gradleProperty("golden").orNull?.let { systemProperty("nagedge.golden", it) }
    systemProperty("nagedge.ort", libs.versions.onnxruntime.get())
}
