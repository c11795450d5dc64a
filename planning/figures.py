"""All drawing for plan.py: several runs, one run, an ablation. matplotlib is optional.

Equal numbers make equal files.
"""


def blank(width, columns, height=3.3):
    """(figure, list of axes side by side), in inches."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ValueError("figures need matplotlib, which is not installed: pip install matplotlib") from e
    matplotlib.rcParams.update({"svg.hashsalt": "0", "svg.fonttype": "none", "font.size": 9})   # same ids
    fig = Figure((width, height), layout="constrained")
    axes = list(fig.subplots(1, columns, squeeze=False)[0])
    for ax in axes:
        ax.grid(alpha=0.3, linewidth=0.5)
    return fig, axes


def save_figure(fig, out):
    """Write OUT.png and OUT.svg."""
    fig.savefig(f"{out}.png", dpi=160)
    fig.savefig(f"{out}.svg", metadata={"Date": None})
    print(f"wrote {out}.png and {out}.svg")


def loss_axis(ax, label):
    """A logarithmic axis of losses, with plain numbers: 2, 2.5, 3 where matplotlib has only powers of ten."""
    from matplotlib import ticker
    ax.set(yscale="log", ylabel=label)
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))


def draw_runs(runs, out):
    """Training loss against tokens and FLOPs (LLaMA, Figure 1) of `runs` (size, tokens, FLOPs, loss),
    smallest first. A size is a colour."""
    fig, axes = blank(7.2, 2)
    from matplotlib import colormaps
    sizes = list(dict.fromkeys(size for size, *_ in runs))
    lines = {}
    for size, tokens, flops, loss in runs:
        color = colormaps["viridis"](0.85 * sizes.index(size) / max(1, len(sizes) - 1))
        axes[0].plot(tokens, loss, color=color)
        lines[size], = axes[1].plot(flops, loss, color=color)
    for ax, x, y in zip(axes, ("training tokens", "training FLOPs"), ("training loss, nats per token", "")):
        ax.set(xscale="log", xlabel=x)
        loss_axis(ax, y)
    axes[1].legend(lines.values(), lines, title="parameters", frameon=False)
    save_figure(fig, out)


def draw_run(name, steps, lines, out):
    """One run: its `steps` (tokens, loss, learning rate), and `lines` {label: (tokens, loss)} over them."""
    fig, (left, right) = blank(7.2, 2)
    tokens, loss, rate = steps
    left.plot(tokens, loss, color="0.8", linewidth=0.8)
    for label, (at, values) in lines.items():
        left.plot(at, values, marker="." if len(at) < 30 else None, label=label)
    loss_axis(left, "loss, nats per token")
    left.set(title=name, xlabel="training tokens")
    left.legend(frameon=False)
    right.plot(tokens, rate, color="black")
    right.set(xlabel="training tokens", ylabel="learning rate", ylim=(0, None))
    save_figure(fig, out)


def draw_ablation(cells, measures, losses, out):
    """A row for each cell, a dot for each seed, a panel for each measure. The last panel has the loss against
    the context it is read in. `cells` are {choices in words: {measure: [a score per seed]}}, `losses` are
    {contexts: measure}."""
    fig, axes = blank(4 + 2.6 * (1 + len(measures)), 1 + len(measures), 1.5 + 0.3 * len(cells))
    for y, (name, scores) in enumerate(cells.items()):
        style = {"color": f"C{y % 10}", "marker": "os^vD*"[y % 6]}
        for ax, measure in zip(axes, measures):
            ax.plot(scores[measure], [y] * len(scores[measure]), linestyle="", alpha=0.7, **style)
        means = [sum(scores[m]) / len(scores[m]) for m in losses.values()]
        axes[-1].plot(list(losses), means, label=name, **style)
    for ax, measure in zip(axes, measures):
        ax.set(xlabel=measure, yticks=range(len(cells)), ylim=(len(cells) - 0.5, -0.5))
        ax.set_yticklabels(cells if ax is axes[0] else [])
    axes[-1].set(xscale="log", xlabel="context, in training contexts", ylabel="validation loss")
    axes[-1].set_xticks(list(losses), [f"{k}x" for k in losses])
    axes[-1].minorticks_off()
    fig.legend(loc="outside right center", frameon=False)
    save_figure(fig, out)
