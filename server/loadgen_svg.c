/* loadgen_svg.c - the curve: throughput, time to first token and time between tokens over load.
 * Three panels of one width; a logarithmic axis where loads span a factor of eight. Pure. */
#include <math.h>
#include "server/loadgen.h"

enum {
    PANELS = 3,
    PANEL_W = 300,
    PANEL_H = 220,
    LEFT = 62,
    TOP = 46,
    GAP = 76,
    WIDTH = LEFT + PANELS * PANEL_W + (PANELS - 1) * GAP + 24,
    HEIGHT = TOP + PANEL_H + 66,
    LINES_MAX = 3,
    TICKS = 4,
};

struct line {
    const char *name, *colour;
    double values[LOAD_STAGES_MAX];
};
struct panel {
    const char *title;
    struct line lines[LINES_MAX];
    int32_t n_lines;
};

static double load_of(const struct load_stage *stage)
{
    return stage->concurrency > 0 ? stage->concurrency : stage->rate;
}

/* 0 .. 1 along the load axis. */
static double position(const struct loadgen *load, int32_t i)
{
    double low = INFINITY, high = 0, x = load_of(&load->stages[i]);
    for (int32_t k = 0; k < load->n_run; k++) {
        low = fmin(low, load_of(&load->stages[k]));
        high = fmax(high, load_of(&load->stages[k]));
    }
    if (high <= low)
        return 0.5;
    return high / low >= 8 ? log(x / low) / log(high / low) : (x - low) / (high - low);
}

/* The next of 1, 2, 5 times a power of ten. */
static double round_up(double value)
{
    double ten = value > 0 ? pow(10, floor(log10(value))) : 1, rest = value > 0 ? value / ten : 1;
    return ten * (rest <= 1 ? 1 : rest <= 2 ? 2 : rest <= 5 ? 5 : 10);
}

static void put_axes(struct buf *out, const struct loadgen *load, const struct panel *panel,
                     double x0, double top)
{
    buf_printf(out,
               "<rect x=\"%.1f\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"none\" "
               "stroke=\"#888\"/>\n<text x=\"%.1f\" y=\"%d\" font-weight=\"bold\">%s</text>\n",
               x0, TOP, PANEL_W, PANEL_H, x0, TOP - 10, panel->title);
    for (int t = 0; t <= TICKS; t++) {
        double y = TOP + PANEL_H - (double)PANEL_H * t / TICKS;
        buf_printf(out,
                   "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                   "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                   x0, x0 + PANEL_W, y, y, x0 - 6, y + 4, top * t / TICKS);
    }
    for (int32_t i = 0; i < load->n_run; i++) {
        double x = x0 + 12 + (PANEL_W - 24) * position(load, i);
        buf_printf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n", x,
                   TOP + PANEL_H + 16, load_of(&load->stages[i]));
    }
    buf_printf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
               x0 + PANEL_W / 2.0, TOP + PANEL_H + 34,
               load->stages[0].concurrency > 0 ? "requests at once" : "requests a second");
}

static void put_panel(struct buf *out, const struct loadgen *load, const struct panel *panel,
                      int32_t index)
{
    double x0 = LEFT + index * (PANEL_W + GAP), high = 0;
    for (int32_t k = 0; k < panel->n_lines; k++)
        for (int32_t i = 0; i < load->n_run; i++)
            high = fmax(high, panel->lines[k].values[i]);
    double top = round_up(high);
    put_axes(out, load, panel, x0, top);
    for (int32_t k = 0; k < panel->n_lines; k++) {
        const struct line *line = &panel->lines[k];
        buf_printf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"",
                   line->colour);
        for (int32_t i = 0; i < load->n_run; i++)
            buf_printf(out, "%s%.1f,%.1f", i > 0 ? " " : "",
                       x0 + 12 + (PANEL_W - 24) * position(load, i),
                       TOP + PANEL_H * (1 - line->values[i] / top));
        buf_puts(out, "\"/>\n");
        for (int32_t i = 0; i < load->n_run; i++)
            buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n",
                       x0 + 12 + (PANEL_W - 24) * position(load, i),
                       TOP + PANEL_H * (1 - line->values[i] / top), line->colour);
        buf_printf(out, "<text x=\"%.1f\" y=\"%d\" fill=\"%s\">%s</text>\n", x0 + 8 + 64.0 * k,
                   TOP + PANEL_H + 54, line->colour, line->name);
    }
}

static void put_text(struct buf *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<' || *text == '&' || *text == '>')
            buf_printf(out, "&#%d;", *text);
        else if ((unsigned char)*text >= ' ')
            buf_putc(out, *text);
    }
}

void load_write_svg(struct buf *out, const struct loadgen *load,
                    const struct load_summary *summaries)
{
    static const char *const NAMES[LINES_MAX] = { "p50", "p90", "p99" };
    static const char *const COLOURS[LINES_MAX] = { "#2266aa", "#cc7711", "#bb2233" };
    struct panel panels[PANELS] = { { .title = "output tokens a second", .n_lines = 1 },
                                    { .title = "time to first token, ms", .n_lines = 3 },
                                    { .title = "time between tokens, ms", .n_lines = 3 } };
    for (int p = 0; p < PANELS; p++)
        for (int32_t k = 0; k < panels[p].n_lines; k++) {
            panels[p].lines[k].name = p == 0 ? "" : NAMES[k];
            panels[p].lines[k].colour = COLOURS[k];
        }
    for (int32_t i = 0; i < load->n_run; i++) {
        const struct load_summary *s = &summaries[i];
        const struct load_spread *spreads[] = { &s->ttft, &s->itl };
        panels[0].lines[0].values[i] = s->output_per_s;
        for (int p = 1; p < PANELS; p++) {
            panels[p].lines[0].values[i] = spreads[p - 1]->p50 * 1e3;
            panels[p].lines[1].values[i] = spreads[p - 1]->p90 * 1e3;
            panels[p].lines[2].values[i] = spreads[p - 1]->p99 * 1e3;
        }
    }
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
               "font-family=\"sans-serif\" font-size=\"11\">\n"
               "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n<text x=\"%d\" y=\"16\">",
               WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    put_text(out, load->model);
    buf_puts(out, " at ");
    put_text(out, load->url.host);
    buf_printf(out, ":%s</text>\n", load->url.port);
    for (int32_t p = 0; p < PANELS && load->n_run > 0; p++)
        put_panel(out, load, &panels[p], p);
    buf_puts(out, "</svg>\n");
}
