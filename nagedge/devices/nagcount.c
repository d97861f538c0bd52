/* nagcount: a TCG plugin of QEMU (plugin API 1: QEMU 6.0 to 8.2) that counts a guest's arm64 instructions.
 *
 *   qemu-aarch64 -plugin nagcount.so,out=FILE[,memory=on] PROGRAM
 *
 * The guest marks regions with the system call getpid, to which it gives arguments that getpid does not have:
 * MAGIC, 1 (begin) or 2 (end), a label. At each end one line of JSON is written: the instructions between begin and
 * end, in all and by class; with memory=on also accesses and bytes read and written, and misses of two data caches
 * (32 KiB of 4 ways and 512 KiB of 16 ways, 64-byte lines, least recently used; no prefetching).
 *
 * Counting is exact for one thread. QEMU's header is not needed: what is used of it is declared here.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct {
    const char *target_name;
    struct { int min, cur; } version;
    bool system_emulation;
    union { struct { int smp_vcpus, max_vcpus; } system; };
} qemu_info_t;
typedef void (*translated_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*memory_cb)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3, ADD_U64 = 0 };
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_cb);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_cb, int, int, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
extern bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

#define MAGIC 0x4e61674564676521ULL /* "NagEdge!" */

enum { ALL, INTEGER, BRANCH, LOAD, STORE, VECTOR_LOAD, VECTOR_STORE, SCALAR_FP, VECTOR, MULTIPLY_ADD, DOT, OTHER,
       LANES, CLASSES };
static const char *const names[CLASSES] = {
    "instructions", "integer", "branch", "load", "store", "vector_load", "vector_store", "scalar_fp", "vector",
    "multiply_add", "dot", "other", "multiply_adds"};

struct counts { uint64_t by_class[CLASSES], bytes[2], accesses[2], misses[2]; };
static struct counts now, at_begin;
static bool with_memory;
static FILE *out;

/* --- data caches: set associative, least recently used ------------------------------------------------------- */

struct cache { unsigned sets, ways; uint64_t *line, *used, clock; };
static struct cache level1, level2;

static bool make_cache(struct cache *c, unsigned bytes, unsigned ways) {
    c->ways = ways;
    c->sets = bytes / 64 / ways;
    c->line = malloc(sizeof(uint64_t) * c->sets * ways);
    c->used = calloc((size_t)c->sets * ways, sizeof(uint64_t));
    if (!c->line || !c->used) return false;
    memset(c->line, 0xff, sizeof(uint64_t) * c->sets * ways);
    return true;
}

static bool hit(struct cache *c, uint64_t line) {
    uint64_t *lines = c->line + (size_t)(line % c->sets) * c->ways;
    uint64_t *used = c->used + (size_t)(line % c->sets) * c->ways;
    unsigned oldest = 0;
    c->clock++;
    for (unsigned way = 0; way < c->ways; way++) {
        if (lines[way] == line) { used[way] = c->clock; return true; }
        if (used[way] < used[oldest]) oldest = way;
    }
    lines[oldest] = line;
    used[oldest] = c->clock;
    return false;
}

static void on_memory(unsigned cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    uint64_t size = 1ULL << qemu_plugin_mem_size_shift(info);
    int store = qemu_plugin_mem_is_store(info);
    (void)cpu; (void)data;
    now.accesses[store]++;
    now.bytes[store] += size;
    for (uint64_t line = address >> 6; line <= (address + size - 1) >> 6; line++)
        if (!hit(&level1, line)) {
            now.misses[0]++;
            if (!hit(&level2, line)) now.misses[1]++;
        }
}

/* --- classes: Arm Architecture Reference Manual, "Top-level encodings for A64" (C4.1) ---------------------------- */

/* Multiply-adds of one vector multiply-add: lanes of the result, times products in each. */
static unsigned lanes(uint32_t w, bool half) {
    unsigned bytes = (w >> 30) & 1 ? 16 : 8;
    unsigned size = (w >> 22) & 3;
    if (half) return bytes / 2;
    return bytes >> size;
}

static int classify(uint32_t w, unsigned *multiply_adds) {
    unsigned group = (w >> 25) & 15;
    *multiply_adds = 0;
    if ((group & 14) == 8) return INTEGER;  /* 100x: data processing, immediate */
    if ((group & 14) == 10) return BRANCH;  /* 101x: branches, system */
    if ((group & 7) == 5) return INTEGER;   /* x101: data processing, register */
    if ((group & 5) == 4) {                 /* x1x0: loads and stores */
        bool vector = (w >> 26) & 1, load;
        unsigned kind = (w >> 28) & 3;
        if (kind == 1) load = true;                   /* literal */
        else if (kind != 3) load = (w >> 22) & 1;     /* pairs, exclusive, structures */
        else {                                        /* one register; opc 2 of a vector is a 128-bit store */
            unsigned opc = (w >> 22) & 3;
            load = opc != 0 && !(vector && opc == 2);
        }
        return vector ? (load ? VECTOR_LOAD : VECTOR_STORE) : (load ? LOAD : STORE);
    }
    if ((group & 7) == 7) {                 /* x111: floating point and Advanced SIMD */
        if ((w & 0x9f200400) == 0x0e200400) {         /* three registers of one type */
            unsigned opcode = (w >> 11) & 31, unsigned_ = (w >> 29) & 1;
            if (opcode == 0x19 && !unsigned_) { *multiply_adds = (w >> 22) & 1 ? ((w >> 30) & 1) + 1 : 2 * (((w >> 30) & 1) + 1); return MULTIPLY_ADD; }
            if (opcode == 0x12) { *multiply_adds = lanes(w, false); return MULTIPLY_ADD; }
            return VECTOR;
        }
        if ((w & 0x9f60c400) == 0x0e400400) {         /* three registers, half precision */
            if (((w >> 11) & 7) == 1 && !((w >> 29) & 1)) { *multiply_adds = lanes(w, true); return MULTIPLY_ADD; }
            return VECTOR;
        }
        if ((w & 0x9f200c00) == 0x0e200000) {         /* three registers of different types: SMLAL and its like */
            unsigned opcode = (w >> 12) & 15;
            if (opcode == 8 || opcode == 10) { *multiply_adds = 8 >> ((w >> 22) & 3); return MULTIPLY_ADD; }
            return VECTOR;
        }
        if ((w & 0x9f000400) == 0x0f000000) {         /* vector by element */
            unsigned opcode = (w >> 12) & 15, unsigned_ = (w >> 29) & 1, size = (w >> 22) & 3;
            if ((opcode == 1 || opcode == 5) && !unsigned_) {
                unsigned element = size == 0 ? 2 : size == 3 ? 8 : 4;
                *multiply_adds = ((w >> 30) & 1 ? 16 : 8) / element;
                return MULTIPLY_ADD;
            }
            if ((opcode == 0 || opcode == 4) && unsigned_) { *multiply_adds = lanes(w, false); return MULTIPLY_ADD; }
            if (opcode == 2 || opcode == 6) { *multiply_adds = 8 >> size; return MULTIPLY_ADD; }
            if (opcode == 14) { *multiply_adds = (w >> 30) & 1 ? 16 : 8; return DOT; }
            return VECTOR;
        }
        if ((w & 0x9f208400) == 0x0e008400) {         /* three registers, extension: SDOT, UDOT, SMMLA */
            unsigned opcode = (w >> 11) & 15;
            if (opcode == 2) { *multiply_adds = (w >> 30) & 1 ? 16 : 8; return DOT; }
            if (opcode == 4 || opcode == 5) { *multiply_adds = 32; return DOT; }
            return VECTOR;
        }
        if ((w & 0x5f000000) == 0x1f000000) { *multiply_adds = 1; return MULTIPLY_ADD; } /* FMADD and its like */
        if ((w & 0x5f000000) == 0x1e000000) return SCALAR_FP;
        return VECTOR;
    }
    return OTHER;
}

static void on_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    size_t length = qemu_plugin_tb_n_insns(block);
    uint64_t found[CLASSES] = {0};
    (void)id;
    for (size_t i = 0; i < length; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        uint32_t word;
        unsigned multiply_adds;
        memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
        found[classify(word, &multiply_adds)]++;
        found[LANES] += multiply_adds;
        if (with_memory)
            qemu_plugin_register_vcpu_mem_cb(instruction, on_memory, NO_REGISTERS, READS_AND_WRITES, NULL);
    }
    found[ALL] = length;
    for (int i = 0; i < CLASSES; i++)
        if (found[i]) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &now.by_class[i], found[i]);
}

static void write_region(uint64_t label) {
    fprintf(out, "{\"label\": %llu", (unsigned long long)label);
    for (int i = 0; i < CLASSES; i++)
        fprintf(out, ", \"%s\": %llu", names[i], (unsigned long long)(now.by_class[i] - at_begin.by_class[i]));
    if (with_memory)
        fprintf(out, ", \"read_bytes\": %llu, \"written_bytes\": %llu, \"reads\": %llu, \"writes\": %llu, "
                     "\"level1_misses\": %llu, \"level2_misses\": %llu",
                (unsigned long long)(now.bytes[0] - at_begin.bytes[0]),
                (unsigned long long)(now.bytes[1] - at_begin.bytes[1]),
                (unsigned long long)(now.accesses[0] - at_begin.accesses[0]),
                (unsigned long long)(now.accesses[1] - at_begin.accesses[1]),
                (unsigned long long)(now.misses[0] - at_begin.misses[0]),
                (unsigned long long)(now.misses[1] - at_begin.misses[1]));
    fputs("}\n", out);
    fflush(out);
}

static void on_syscall(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t magic, uint64_t command,
                       uint64_t label, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id; (void)cpu; (void)number; (void)a4; (void)a5; (void)a6; (void)a7; (void)a8;
    if (magic != MAGIC) return;
    if (command == 1) at_begin = now;
    else if (command == 2) write_region(label);
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    out = stderr;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) out = fopen(argv[i] + 4, "w");
        else if (!strcmp(argv[i], "memory=on")) with_memory = true;
        else { fprintf(stderr, "nagcount: unknown option %s\n", argv[i]); return 1; }
    }
    if (!out || !make_cache(&level1, 32768, 4) || !make_cache(&level2, 524288, 16)) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
