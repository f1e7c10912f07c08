/* memory_plan.c - the budget table (DESIGN 7): read sizes, add up, what is left becomes KV pages.
 */
#include "server/memory_plan.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what there is ----------------------------------------------------------------------------
 */

/* The number behind `key` in a file of "key number" lines; -1: none. Pseudo files have no size, so
 * file_read does not do. */
static int64_t number_in(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    char line[256];
    int64_t found = -1;
    size_t n = strlen(key);
    if (file == NULL)
        return -1;
    while (found < 0 && fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, n) == 0) {
            char *end;
            long long value = strtoll(line + n, &end, 10);
            if (end != line + n && value >= 0)
                found = value;
        }
    fclose(file);
    return found;
}

static void lower(size_t *least, int64_t value)
{
    if (value >= 0 && (*least == 0 || (size_t)value < *least))
        *least = (size_t)(value > 0 ? value : 1);
}

/* limit - used + file cache of one control group folder; "max" reads as no number. */
static void lower_by_group(size_t *least, const char *folder, const char *limit, const char *used,
                           const char *cache)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, limit);
    int64_t most = number_in(path, "");
    if (most < 0 || most > (int64_t)1 << 60) /* v1 writes 2^63 rounded for "none" */
        return;
    snprintf(path, sizeof path, "%s/%s", folder, used);
    int64_t now = number_in(path, "");
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    int64_t files = number_in(path, cache);
    int64_t left = most - (now > 0 ? now : 0) + (files > 0 ? files : 0);
    lower(least, left > most ? most : left > 0 ? left : 0);
}

size_t memory_available(void)
{
    size_t least = 0;
    int64_t kib = number_in("/proc/meminfo", "MemAvailable:");
    lower(&least, kib >= 0 ? kib * 1024 : -1);
    /* In a container the root of the mount is usually our own group; else walk up from ours. */
    lower_by_group(&least, "/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                   "memory.usage_in_bytes", "total_inactive_file ");
    FILE *file = fopen("/proc/self/cgroup", "re");
    char line[400];
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "0::/", 4) != 0)
            continue;
        char folder[440];
        snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", line + 3);
        for (char *slash; (slash = strrchr(folder, '/')) != NULL;) {
            lower_by_group(&least, folder, "memory.max", "memory.current", "inactive_file ");
            if (strcmp(folder, "/sys/fs/cgroup") == 0)
                break;
            *slash = 0;
        }
    }
    if (file != NULL)
        fclose(file);
    return least;
}

/* ---- the plan ---------------------------------------------------------------------------------
 */

static int32_t pages_per_seq(int32_t window, int32_t ctx, int32_t step_tokens_max)
{
    int32_t all = kv_pages_for(ctx);
    if (window <= 0)
        return all;
    int64_t some = (int64_t)kv_pages_for(window) + 1 + kv_pages_for(step_tokens_max);
    return some < all ? (int32_t)some : all;
}

static double seq_bytes(const struct memory_plan *plan, int32_t ctx, int32_t step_tokens_max)
{
    double bytes = 0;
    for (int32_t g = 0; g < plan->n_groups; g++)
        bytes += (double)pages_per_seq(plan->groups[g].window, ctx, step_tokens_max) *
                 (double)plan->groups[g].page_bytes;
    return bytes;
}

/* The longest context whose pages fit in `room`, by halving; 0: not even a page. */
static int32_t longest_ctx(const struct memory_plan *plan, double room, int32_t step_tokens_max)
{
    int32_t low = 0, high = plan->ctx;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        if (seq_bytes(plan, middle, step_tokens_max) <= room)
            low = middle;
        else
            high = middle - 1;
    }
    return low == plan->ctx ? low : low / PAGE_TOKENS * PAGE_TOKENS;
}

/* All but the pages. */
static double fixed_bytes(const struct memory_plan *plan)
{
    return (double)plan->weights + (double)plan->activations + (double)plan->workspace +
           (double)plan->tables;
}

bool memory_plan_make(struct memory_plan *plan, const struct kv_cache *shape,
                      int32_t step_tokens_max, struct err *err)
{
    char texts[3][32];
    CHECK(plan->ctx >= 1 && plan->max_seqs >= 1 && shape->n_groups <= KV_GROUPS_MAX);
    plan->n_groups = shape->n_groups;
    for (int32_t g = 0; g < plan->n_groups; g++)
        plan->groups[g] = (struct memory_group){
            .window = shape->groups[g].window,
            .n_layers = shape->groups[g].n_layers,
            .pages_per_seq = pages_per_seq(shape->groups[g].window, plan->ctx, step_tokens_max),
            .page_bytes = kv_page_bytes(shape, g),
        };
    double fixed = fixed_bytes(plan);
    double room = (double)plan->budget - fixed;
    double one = seq_bytes(plan, plan->ctx, step_tokens_max);
    plan->ctx_fits = longest_ctx(plan, room, step_tokens_max);
    if (room < one) {
        memory_text((double)plan->budget, texts[0], sizeof texts[0]);
        memory_text(fixed, texts[1], sizeof texts[1]);
        memory_text(one, texts[2], sizeof texts[2]);
        if (plan->ctx_fits < PAGE_TOKENS)
            return err_set(
                err, ERR_MEMORY,
                "--memory %s is not enough: weights, activations and tables take %s, and "
                "the keys and values of %d tokens %s; try a larger --memory, "
                "--weights int4, or a smaller --max-seqs or --step-tokens",
                texts[0], texts[1], plan->ctx, texts[2]);
        return err_set(
            err, ERR_MEMORY,
            "--memory %s is not enough for a sequence of %d tokens: weights, activations "
            "and tables take %s, its keys and values %s; --ctx %d would fit",
            texts[0], plan->ctx, texts[1], texts[2], plan->ctx_fits);
    }
    double n = room / one;
    if (n > plan->max_seqs)
        n = plan->max_seqs;
    plan->n_full_seqs = n;
    plan->kv = 0;
    for (int32_t g = 0; g < plan->n_groups; g++) {
        struct memory_group *group = &plan->groups[g];
        double pages = (double)group->pages_per_seq * n;
        group->n_pages = pages < 0x7fffffff ? (int32_t)pages : INT32_MAX;
        plan->kv += (size_t)group->n_pages * group->page_bytes;
    }
    return true;
}

/* ---- printing ---------------------------------------------------------------------------------
 */

const char *memory_text(double bytes, char *text, size_t size)
{
    static const char *const UNITS[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int unit = 0;
    for (; unit < 4 && bytes >= 1024; unit++)
        bytes /= 1024;
    snprintf(text, size, "%.*f %s", unit == 0 ? 0 : bytes < 10 ? 2 : 1, bytes, UNITS[unit]);
    return text;
}

static void row(struct buf *out, const char *name, double bytes, const char *how)
{
    char text[32];
    buf_printf(out, "  %-14s %11s   %s\n", name, memory_text(bytes, text, sizeof text), how);
}

void memory_plan_print(struct buf *out, const struct memory_plan *plan)
{
    char how[200], text[32];
    double used = fixed_bytes(plan) + (double)plan->kv;
    buf_puts(out, "memory plan\n");
    if (plan->by_percent)
        snprintf(how, sizeof how, "%d %% of %s available", plan->percent,
                 memory_text((double)plan->available, text, sizeof text));
    else
        snprintf(how, sizeof how, "--memory; %s available",
                 memory_text((double)plan->available, text, sizeof text));
    row(out, "budget", (double)plan->budget, how);
    snprintf(how, sizeof how, "%s of it anonymous, the rest mapped from the file",
             memory_text((double)plan->weights_anonymous, text, sizeof text));
    row(out, "weights", (double)plan->weights, how);
    row(out, "activations", (double)plan->activations, "scratch and logits of one step");
    if (plan->workspace > 0)
        row(out, "workspace", (double)plan->workspace, "scratch of the GPU's kernels, recordings");
    row(out, "tables", (double)plan->tables, "queues, page tables, sequences, connections");
    for (int32_t g = 0; g < plan->n_groups; g++) {
        const struct memory_group *group = &plan->groups[g];
        char name[24], window[32];
        snprintf(name, sizeof name, "KV group %d", g);
        snprintf(window, sizeof window, group->window > 0 ? "window %d" : "full", group->window);
        snprintf(how, sizeof how, "%d pages x %zu B; %d layers, %s; %d pages a sequence of %d",
                 group->n_pages, group->page_bytes, group->n_layers, window, group->pages_per_seq,
                 plan->ctx);
        row(out, name, (double)group->n_pages * (double)group->page_bytes, how);
    }
    snprintf(how, sizeof how, "%.0f bytes of the budget left", (double)plan->budget - used);
    row(out, "sum", used, how);
    buf_printf(out, "  room for %.1f sequences of %d tokens at once (at most %d run)\n",
               plan->n_full_seqs, plan->ctx, plan->max_seqs);
}

void memory_plan_json(struct buf *out, const struct memory_plan *plan)
{
    buf_printf(out,
               "{\"available_bytes\":%zu,\"budget_bytes\":%zu,\"weight_bytes\":%zu,"
               "\"weight_anonymous_bytes\":%zu,\"activation_bytes\":%zu,\"workspace_bytes\":%zu,"
               "\"table_bytes\":%zu,"
               "\"kv_bytes\":%zu,\"ctx\":%d,\"max_seqs\":%d,\"full_sequences\":%.3f,\"groups\":[",
               plan->available, plan->budget, plan->weights, plan->weights_anonymous,
               plan->activations, plan->workspace, plan->tables, plan->kv, plan->ctx,
               plan->max_seqs, plan->n_full_seqs);
    for (int32_t g = 0; g < plan->n_groups; g++) {
        const struct memory_group *group = &plan->groups[g];
        buf_printf(out,
                   "%s{\"window\":%d,\"layers\":%d,\"pages\":%d,\"page_bytes\":%zu,"
                   "\"pages_per_sequence\":%d}",
                   g > 0 ? "," : "", group->window, group->n_layers, group->n_pages,
                   group->page_bytes, group->pages_per_seq);
    }
    buf_puts(out, "]}");
}
