/* option_table.h - what options.c (reading) and option_table.c (rows, help, printing) share. */
#pragma once
#include "server/options.h"

enum option_type {
    OPTION_FLAG, /* bool; --name alone, or on | off */
    OPTION_ONOFF,
    OPTION_TEXT,
    OPTION_LIST,   /* struct option_texts; repeatable, commas */
    OPTION_INT,    /* int32_t */
    OPTION_LONG,   /* int64_t */
    OPTION_INTS,   /* struct option_ints */
    OPTION_DOUBLE, /* double */
    OPTION_CHOICE, /* int32_t */
    OPTION_BYTES,  /* int64_t */
    OPTION_MEMORY,
    OPTION_DEVICE,
};
enum option_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG };

/* A word that stands for a number. */
struct option_word {
    const char *word;
    int32_t value;
    const char *refused; /* known by name, not done here: the reason; else NULL */
};
struct option {
    const char *name; /* long name without dashes; also the file's key */
    char letter;      /* short form, or 0 */
    enum option_type type;
    uint32_t commands;   /* bit per enum command */
    size_t offset;       /* in struct options */
    const char *value;   /* what --help calls the value */
    const char *initial; /* the default as it would be written; NULL: not given */
    const char *help;
    int64_t low, high;               /* OPTION_INT, _LONG, _INTS, _BYTES, _DOUBLE */
    const struct option_word *words; /* OPTION_CHOICE: all; numbers: extra ones; NULL-ended */
    bool only_here;                  /* not in files and environment: help, config and their like */
};
extern const struct option OPTIONS[];
extern const int32_t N_OPTIONS;

struct command_spec {
    const char *name, *arguments, *summary;
    const char *positional[2]; /* names of options that bare arguments go to */
    const char *notes;
};
extern const struct command_spec COMMANDS[COMMAND_COUNT];

/* The row called `name` (n bytes; '_' counts as '-'), or NULL. */
const struct option *option_find(const char *name, size_t n);
/* NIBBLE_ and the name in capitals. Returns `text`. */
const char *option_environment(const struct option *option, char *text, size_t size);
