// Runs a compiled Core ML model again and again on the same inputs, and says how long each call took.
//
// It is compiled for the iOS simulator and started in it: `runner REQUEST`. The request is a JSON file; arrays lie beside
// it as raw little-endian values, and so do the answer and the outputs.

import CoreML
import Foundation

struct Feature: Codable {
    let name: String
    let shape: [Int]
    let type: String
    let file: String
}

struct Request: Codable {
    let model: String
    let inputs: [Feature]
    let calls: Int
    let leastCalls: Int
    let budgetSeconds: Double
}

struct Answer: Codable {
    let system: String
    let loadMilliseconds: Double
    let durationsNanoseconds: [UInt64]
    let outputs: [Feature]
}

enum RunnerError: Error, CustomStringConvertible {
    case wrongSize(String, Int, Int)
    case noArray(String)

    var description: String {
        switch self {
        case .wrongSize(let name, let got, let expected):
            return "input '\(name)' has \(got) bytes, expected \(expected)"
        case .noArray(let name):
            return "output '\(name)' is no array"
        }
    }
}

func readArray(_ feature: Feature, in folder: URL) throws -> MLMultiArray {
    let type: MLMultiArrayDataType = feature.type == "int32" ? .int32 : .float32
    let array = try MLMultiArray(shape: feature.shape.map { NSNumber(value: $0) }, dataType: type)
    let data = try Data(contentsOf: folder.appendingPathComponent(feature.file))
    guard data.count == 4 * array.count else {
        throw RunnerError.wrongSize(feature.name, data.count, 4 * array.count)
    }
    data.withUnsafeBytes { source in
        if let start = source.baseAddress {
            array.dataPointer.copyMemory(from: start, byteCount: data.count)
        }
    }
    return array
}

func writeArray(_ array: MLMultiArray, name: String, number: Int, in folder: URL) throws -> Feature {
    let file = "output-\(number).bin"
    let shape = array.shape.map { $0.intValue }
    var data = Data()
    let whole = array.dataType == .int32
    // By element: an output may have strides of its own, and float16 becomes float32.
    for index in 0..<array.count {
        if whole {
            withUnsafeBytes(of: array[index].int32Value.littleEndian) { data.append(contentsOf: $0) }
        } else {
            withUnsafeBytes(of: array[index].floatValue.bitPattern.littleEndian) { data.append(contentsOf: $0) }
        }
    }
    try data.write(to: folder.appendingPathComponent(file))
    return Feature(name: name, shape: shape, type: whole ? "int32" : "float32", file: file)
}

func run(_ path: String) throws {
    let file = URL(fileURLWithPath: path)
    let folder = file.deletingLastPathComponent()
    let request = try JSONDecoder().decode(Request.self, from: Data(contentsOf: file))
    let configuration = MLModelConfiguration()
    configuration.computeUnits = .cpuOnly
    let opened = DispatchTime.now().uptimeNanoseconds
    let model = try MLModel(contentsOf: URL(fileURLWithPath: request.model), configuration: configuration)
    let loaded = DispatchTime.now().uptimeNanoseconds
    var values: [String: Any] = [:]
    for feature in request.inputs {
        values[feature.name] = MLFeatureValue(multiArray: try readArray(feature, in: folder))
    }
    let inputs = try MLDictionaryFeatureProvider(dictionary: values)
    var durations: [UInt64] = []
    var results: MLFeatureProvider = inputs
    let started = DispatchTime.now().uptimeNanoseconds
    let budget = UInt64(request.budgetSeconds * 1e9)
    while durations.count < request.calls {
        let elapsed = DispatchTime.now().uptimeNanoseconds - started
        if durations.count >= request.leastCalls && elapsed >= budget {
            break
        }
        try autoreleasepool {
            let before = DispatchTime.now().uptimeNanoseconds
            results = try model.prediction(from: inputs)
            durations.append(DispatchTime.now().uptimeNanoseconds - before)
        }
    }
    var outputs: [Feature] = []
    for (number, name) in results.featureNames.sorted().enumerated() {
        guard let array = results.featureValue(for: name)?.multiArrayValue else {
            throw RunnerError.noArray(name)
        }
        outputs.append(try writeArray(array, name: name, number: number, in: folder))
    }
    let answer = Answer(
        system: ProcessInfo.processInfo.operatingSystemVersionString,
        loadMilliseconds: Double(loaded - opened) / 1e6,
        durationsNanoseconds: durations,
        outputs: outputs
    )
    try JSONEncoder().encode(answer).write(to: folder.appendingPathComponent("answer.json"))
}

do {
    try run(CommandLine.arguments[1])
} catch {
    FileHandle.standardError.write("\(error)\n".data(using: .utf8) ?? Data())
    exit(1)
}
