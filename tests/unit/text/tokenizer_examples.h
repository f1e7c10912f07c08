/* tokenizer_examples.h - small tokenizer.json files that have everything the readers know, between
 * them. For test_tokenizer_mutated.c and test_tokenizer_oom.c. */
#pragma once

#define MARK "\xe2\x96\x81"

static const struct {
    const char *name, *json;
} TOKENIZER_EXAMPLES[] = {
    { "BPE on text",
      "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
      "\"" MARK "\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" MARK
      "\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"q+\"},\"content\":\"a\"},"
      "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"},"
      "{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true},{\"type\":\"NFC\"},"
      "{\"type\":\"Lowercase\"},{\"type\":\"StripAccents\"},"
      "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"\"}]},"
      "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
      "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"b+\"},\"behavior\":\"MergedWithPrevious\","
      "\"invert\":false},"
      "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"MergedWithNext\"},"
      "{\"type\":\"Digits\",\"individual_digits\":true},"
      "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"},"
      "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"-\"},"
      "{\"type\":\"Metaspace\",\"replacement\":\"" MARK
      "\",\"prepend_scheme\":\"first\",\"add_prefix_space\":true,\"split\":true},"
      "{\"type\":\"Whitespace\"},{\"type\":\"WhitespaceSplit\"}]},"
      "\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false,"
      "\"lstrip\":true,\"rstrip\":true,\"single_word\":true},{\"id\":9,\"content\":\"u b\","
      "\"normalized\":true}],"
      "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"TemplateProcessing\","
      "\"single\":[{\"SpecialToken\":{\"id\":\"<unk>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\"}"
      "},"
      "{\"SpecialToken\":{\"id\":\"<unk>\"}}],\"special_tokens\":{\"<unk>\":{\"ids\":[0]}}},"
      "{\"type\":\"RobertaProcessing\",\"cls\":[\"<unk>\",0],\"sep\":[\"<unk>\",0]}]},"
      "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
      "\"String\":"
      "\"" MARK "\"},\"content\":\" \"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"z+\"},"
      "\"content\":\"\"},{\"type\":\"Metaspace\",\"replacement\":\"" MARK
      "\",\"prepend_scheme\":\"always\",\"add_prefix_space\":true},{\"type\":\"ByteFallback\"},"
      "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
      "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":\"<unk>\","
      "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"fuse_unk\":true,"
      "\"byte_fallback\":true,\"ignore_merges\":false,\"vocab\":{\"<unk>\":0,\"" MARK
      "\":1,\"a\":2,\"b\":3,\"c\":4,\"ab\":5,\"abc\":6,\"<0xC3>\":7,\"<0xA9>\":8},"
      "\"merges\":[\"a b\",[\"ab\",\"c\"]]}}" },
    { "BPE on bytes",
      "{\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":{\"type\":\"Sequence\","
      "\"pretokenizers\":["
      "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:[ab]){1,3}|\\\\s+\"},\"behavior\":"
      "\"Isolated\","
      "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}]},"
      "\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"special\":true}],"
      "\"post_processor\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0\":3,\"\xc4\xa0"
      "a\":4},\"merges\":[\"a b\",\"\xc4\xa0 a\"],\"ignore_merges\":true}}" },
    { "Unigram",
      "{\"normalizer\":{\"type\":\"NFKD\"},\"pre_tokenizer\":{\"type\":\"Metaspace\","
      "\"replacement\":\"" MARK
      "\",\"add_prefix_space\":true},\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\"}],"
      "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",2],\"sep\":[\"b\",3]},"
      "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"" MARK
      "\",\"add_prefix_space\":false},"
      "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":false,\"vocab\":[[\"<unk>\","
      "0],"
      "[\"" MARK "\",-2],[\"a\",-1.5],[\"b\",-1.25],[\"ab\",-2e0]]}}" },
    { "WordPiece",
      "{\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,\"handle_chinese_chars\":"
      "true,"
      "\"strip_accents\":true,\"lowercase\":true},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}"
      ","
      "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
      "\"added_tokens\":[{\"id\":0,\"content\":\"[UNK]\",\"special\":true}],"
      "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##"
      "\","
      "\"max_input_chars_per_word\":100,\"vocab\":{\"[UNK]\":0,\"a\":1,\"##b\":2,\"##ab\":3}}}" },
};
enum { N_TOKENIZER_EXAMPLES = sizeof TOKENIZER_EXAMPLES / sizeof *TOKENIZER_EXAMPLES };
