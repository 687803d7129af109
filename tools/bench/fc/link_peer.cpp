// The peer of the single link: a plain loop of the same recurrence, with the full time series.
// Arguments: frames-per-block blocks credits. Prints CPU seconds of the loop, frames, last tick.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

using i64 = std::int64_t;

namespace {
constexpr i64 BYTE = 1320, AROUND = 60, PROPAGATION = 56100000, DRAIN = 1500000, R_RDY = 4 * BYTE;
struct Link {
    std::vector<i64> ring;
    i64 free_at = 0, drained_at = 0, stalls = 0, stalled = 0, carried = 0, busy = 0;
    std::size_t slot = 0;
};

void run(Link &link, const std::vector<i64> &ready, const std::vector<i64> &payload, std::vector<i64> &sent,
         std::vector<i64> &drained) {
    for (std::size_t i = 0; i < ready.size(); ++i) {
        i64 start = std::max(ready[i], link.free_at);
        const i64 credit_at = link.ring[link.slot];
        if (credit_at > start) {
            ++link.stalls;
            link.stalled += credit_at - start;
            start = credit_at;
        }
        const i64 length = (payload[i] + AROUND) * BYTE;
        link.carried += payload[i];
        link.busy += length;
        link.free_at = start + length;
        link.drained_at = std::max(link.free_at + PROPAGATION, link.drained_at) + DRAIN;
        link.ring[link.slot] = link.drained_at + R_RDY + PROPAGATION;
        if (++link.slot == link.ring.size()) link.slot = 0;
        sent[i] = start;
        drained[i] = link.drained_at;
    }
}
} // namespace

int main(int, char **argv) {
    const std::size_t frames = std::strtoull(argv[1], nullptr, 10), blocks = std::strtoull(argv[2], nullptr, 10);
    Link link;
    link.ring.assign(std::strtoull(argv[3], nullptr, 10), 0);
    std::vector<std::vector<i64>> ready(blocks, std::vector<i64>(frames)), payload = ready;
    std::vector<std::vector<i64>> sent, drained;
    i64 random = 8, when = 0;
    for (std::size_t block = 0; block < blocks; ++block) {
        for (std::size_t i = 0; i < frames; ++i) {
            random = random * 48271 % 2147483647;
            when += random % 3000000;
            ready[block][i] = when;
            random = random * 48271 % 2147483647;
            payload[block][i] = random % 2113;
        }
    }
    const std::clock_t began = std::clock();
    for (std::size_t block = 0; block < blocks; ++block) {
        sent.emplace_back(frames);
        drained.emplace_back(frames);
        run(link, ready[block], payload[block], sent[block], drained[block]);
    }
    const double took = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
    std::printf("%.6f %lld %lld\n", took, static_cast<long long>(frames * blocks),
                static_cast<long long>(link.drained_at));
}
