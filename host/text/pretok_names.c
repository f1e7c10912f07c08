/* pretok_names.c - the table.
 *
 * A pattern stands here as the family's tokenizer.json has it. Where a family normalizes its text,
 * a GGUF file does not say so: that is in the table too. */
#include "host/text/pretok_names.h"
#include <string.h>

#define APOSTROPHES "'s|'t|'re|'ve|'m|'ll|'d"
#define CASELESS    "(?i:" APOSTROPHES ")"
#define BLANKS      "\\s+(?!\\S)|\\s+"
#define GPT2        APOSTROPHES "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" BLANKS
/* cl100k's shape; families differ in how many digits are one piece. */
#define CL100K(digits)                                                                             \
    CASELESS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                                              \
             "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" BLANKS
/* o200k's: words by their capitals. */
#define UPPER  "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER  "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define BEFORE "[^\\r\\n\\p{L}\\p{N}]?"
#define WORDS(upper, lower, ending)                                                                \
    BEFORE upper "*" lower "+" ending "|" BEFORE upper "+" lower "*" ending
#define O200K_REST(digits, line_end)                                                               \
    digits "| ?[^\\s\\p{L}\\p{N}]+" line_end "*|\\s*[\\r\\n]+|" BLANKS
#define NO_HAN "&&[^\\p{Han}]"
#define COMMAS "\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c}"

static const char DEEPSEEK_LETTERS[] =
    "\\s?["
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}"
    "-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}"
    "-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}"
    "-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}"
    "\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}"
    "\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}"
    "-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}"
    "-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}"
    "-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}"
    "-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}"
    "\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}"
    "-\\x{1e943}"
    "]+";

static const char *const P_GPT2[] = { GPT2, NULL };
static const char *const P_DEFAULT[] = { "[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+",
                                         "[0-9][0-9][0-9]", NULL };
static const char *const P_DIGITS[] = { "\\p{N}", GPT2, NULL };
static const char *const P_LLAMA3[] = { CL100K("\\p{N}{1,3}"), NULL };
static const char *const P_QWEN2[] = { CL100K("\\p{N}"), NULL };
static const char *const P_QWEN35[] = {
    CASELESS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*"
             "|\\s*[\\r\\n]+|" BLANKS,
    NULL
};
static const char *const P_GPT4O[] = {
    WORDS("[" UPPER "]", "[" LOWER "]", CASELESS "?") "|" O200K_REST("\\p{N}{1,3}", "[\\r\\n/]"),
    NULL
};
static const char *const P_TEKKEN[] = {
    WORDS("[" UPPER "]", "[" LOWER "]", "") "|" O200K_REST("\\p{N}", "[\\r\\n/]"), NULL
};
static const char *const P_KIMI[] = { "[\\p{Han}]+|" WORDS(
                                          "[" UPPER NO_HAN "]", "[" LOWER NO_HAN "]",
                                          CASELESS "?") "|" O200K_REST("\\p{N}{1,3}", "[\\r\\n]"),
                                      NULL };
static const char *const P_DEEPSEEK[] = {
    "[\\r\\n]",
    DEEPSEEK_LETTERS,
    "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}"
    "\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
    "\\s+$",
    "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+",
    "\\p{N}",
    NULL
};
static const char *const P_DEEPSEEK_CODER[] = {
    "[\\r\\n]",    "\\s?\\p{L}+",
    "\\s?\\p{P}+", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+",
    "\\p{N}",      NULL,
};
static const char *const P_DEEPSEEK3[] = {
    "\\p{N}{1,3}",
    "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
    "[!\"#$%&'()*+,\\-./"
    ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|" BLANKS,
    NULL,
};
static const char *const P_FALCON[] = { "[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]",
                                        NULL };
static const char *const P_BLOOM[] = { " ?[^(\\s|.,!?" COMMAS ")]+", NULL };
static const char *const P_VIKING[] = { " ?[^(\\s|.,!?" COMMAS ")]+", "\\p{N}", NULL };
static const char *const P_BAILING[] = {
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|" BLANKS,
    NULL
};
static const char *const P_SEED[] = { CASELESS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}"
                                               "| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|" BLANKS,
                                      NULL };
static const char *const P_SUPER[] = { "\\p{N}+", "(?=(\\d{3})+(?!\\d))", NULL };

/* name, patterns, nfc, ignore_merges, add_bos */
static const struct pretok_name NAMES[] = {
    { "default", P_DEFAULT, false, false, false },
    { "gpt-2", P_GPT2, false, false, false },
    { "phi-2", P_GPT2, false, false, false },
    { "jais", P_GPT2, false, false, false },
    { "gigachat", P_GPT2, false, false, false },
    { "a.x-4.0", P_GPT2, false, false, false },
    { "mellum", P_GPT2, false, false, false },
    { "exaone4", P_GPT2, false, false, false },
    { "trillion", P_GPT2, false, false, false },
    { "granite-docling", P_GPT2, false, false, false },
    { "roberta-bpe", P_GPT2, false, false, false },
    { "mpt", P_GPT2, true, false, false },
    { "olmo", P_GPT2, true, false, false },
    { "starcoder", P_DIGITS, false, false, false },
    { "refact", P_DIGITS, false, false, false },
    { "command-r", P_DIGITS, true, false, false },
    { "smollm", P_DIGITS, false, false, false },
    { "codeshell", P_DIGITS, false, false, false },
    { "exaone", P_DIGITS, false, false, false },
    { "minerva-7b", P_DIGITS, false, false, false },
    { "llama3", P_LLAMA3, false, true, true },
    { "llama-v3", P_LLAMA3, false, true, true },
    { "llama-bpe", P_LLAMA3, false, true, true },
    { "falcon3", P_LLAMA3, false, true, true },
    { "falcon-h1", P_LLAMA3, false, true, true },
    { "pixtral", P_LLAMA3, false, true, true },
    { "midm-2.0", P_LLAMA3, false, true, true },
    { "lfm2", P_LLAMA3, false, true, true },
    { "dbrx", P_LLAMA3, false, false, false },
    { "smaug-bpe", P_LLAMA3, false, false, false },
    { "glm4", P_LLAMA3, false, false, false },
    { "chatglm-bpe", P_LLAMA3, false, false, false },
    { "cl100k", P_LLAMA3, false, true, false },
    { "qwen2", P_QWEN2, true, false, false },
    { "deepseek-r1-qwen", P_QWEN2, false, false, false },
    { "kormo", P_QWEN2, false, false, false },
    { "megrez", P_QWEN2, true, false, false },
    { "stablelm2", P_QWEN2, false, false, false },
    { "hunyuan", P_QWEN2, false, false, false },
    { "grok-2", P_QWEN2, false, false, false },
    { "qwen35", P_QWEN35, true, false, false },
    { "gpt-4o", P_GPT4O, false, false, false },
    { "llama4", P_GPT4O, false, false, false },
    { "minimax-m2", P_GPT4O, false, false, false },
    { "tekken", P_TEKKEN, false, true, true },
    { "kimi-k2", P_KIMI, false, false, false },
    { "deepseek-llm", P_DEEPSEEK, false, false, false },
    { "deepseek-coder", P_DEEPSEEK_CODER, false, false, false },
    { "deepseek-v3", P_DEEPSEEK3, false, false, false },
    { "hunyuan-dense", P_DEEPSEEK3, false, false, false },
    { "falcon", P_FALCON, false, false, false },
    { "bloom", P_BLOOM, false, false, false },
    { "poro-chat", P_BLOOM, false, false, false },
    { "gpt3-finnish", P_BLOOM, false, false, false },
    { "viking", P_VIKING, false, false, false },
    { "bailingmoe", P_BAILING, false, false, false },
    { "bailingmoe2", P_BAILING, false, false, false },
    { "llada-moe", P_BAILING, false, false, false },
    { "seed-coder", P_SEED, false, false, false },
    { "superbpe", P_SUPER, false, false, false },
};

const struct pretok_name *pretok_name_find(const char *name)
{
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(NAMES[i].name, name) == 0)
            return &NAMES[i];
    return NULL;
}

bool pretok_name_open(struct pretok *pretok, const struct pretok_name *name, struct err *err)
{
    pretok->byte_level = true;
    for (const char *const *p = name->patterns; *p; p++)
        if (!pretok_add_pattern(pretok, *p, err)) {
            err_prefix(err, "pre-tokenizer %s", name->name);
            return false;
        }
    return true;
}
