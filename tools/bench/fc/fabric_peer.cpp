// The peer of the fabric engine: the same model on std::priority_queue, plain-data events, a reserved heap.
// One switch, hosts around it; arguments: hosts credits frames-per-host. Prints CPU seconds, frames delivered, last tick,
// events.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <queue>
#include <vector>

namespace {
using i64 = std::int64_t;
constexpr i64 BYTE = 1320, PROPAGATION = 56100, OVERHEAD = 60, R_RDY = 4 * BYTE;
enum Kind : std::int32_t { CREDIT, DRAINED, ARRIVED, SENT };
struct Event {
    i64 time;
    i64 number;
    std::int32_t kind, link, frame, unused;
};
struct Later {
    bool operator()(const Event &a, const Event &b) const {
        return a.time != b.time ? a.time > b.time : a.number > b.number;
    }
};
struct Frame {
    std::int32_t to, size, in, next;
};
struct Link {
    i64 left = 0;
    int credit = 0, waiting = 0, current_in = -1, sink_head = -1, sink_tail = -1, turn = 0;
    bool busy = false;
    std::vector<int> head, tail, active;
    int active_head = 0, active_count = 0;
};

class Fabric {
  public:
    Fabric(int hosts, int credits, i64 frames) : hosts_(hosts), links_(2 * hosts) {
        std::vector<Event> room;
        room.reserve(static_cast<std::size_t>(hosts) * credits * 8);
        events_ = decltype(events_)(Later(), std::move(room));
        frames_.resize(static_cast<std::size_t>(hosts) * credits * 2 + 2 * hosts);
        for (std::size_t n = 0; n < frames_.size(); ++n) frames_[n].next = static_cast<int>(n) + 1;
        frames_.back().next = -1;
        for (auto &link : links_) link.credit = credits;
        for (int host = 0; host < hosts; ++host) {
            links_[host].left = frames;
            links_[host].head.assign(hosts, -1);
            links_[host].tail.assign(hosts, -1);
            links_[hosts + host].active.resize(hosts);
        }
        for (int host = 0; host < hosts; ++host) start(host);
    }
    void run() {
        while (!events_.empty()) {
            const Event event = events_.top();
            events_.pop();
            now_ = event.time;
            ++handled_;
            Link &link = links_[event.link];
            switch (event.kind) {
            case CREDIT:
                ++link.credit;
                if (!link.busy) start(event.link);
                break;
            case DRAINED: {
                const int frame = link.sink_head;
                link.sink_head = frames_[frame].next;
                ++delivered_;
                release(frame);
                give_back(event.link);
                if (link.sink_head >= 0) drain(event.link);
                break;
            }
            case ARRIVED: arrived(event.link, event.frame); break;
            case SENT:
                link.busy = false;
                if (link.current_in >= 0) give_back(link.current_in);
                link.current_in = -1;
                start(event.link);
                break;
            }
        }
    }
    i64 now() const { return now_; }
    i64 delivered() const { return delivered_; }
    i64 handled() const { return handled_; }

  private:
    void at(i64 time, Kind kind, int link, int frame = -1) { events_.push({time, number_++, kind, link, frame, 0}); }
    i64 chance() { return random_ = random_ * 48271 % 2147483647; }
    void release(int frame) {
        frames_[frame].next = free_;
        free_ = frame;
    }
    void give_back(int link) { at(now_ + R_RDY + PROPAGATION, CREDIT, link); }
    void drain(int link) { at(now_ + (link == hosts_ ? 4 * 2172 * BYTE : 2172 * BYTE / 2), DRAINED, link); }
    void start(int number) {
        Link &link = links_[number];
        if (!link.credit) return;
        int frame;
        if (number < hosts_) {
            if (!link.left) return;
            --link.left;
            frame = free_;
            free_ = frames_[frame].next;
            int to = 0;
            if (chance() >= 214748364) {
                to = static_cast<int>(chance() % (hosts_ - 1));
                if (to >= number) ++to;
            }
            frames_[frame].to = to;
            frames_[frame].size = 512 + static_cast<int>(chance() % 1601);
        } else {
            if (!link.active_count) return;
            const int in = link.active[link.active_head];
            link.active_head = link.active_head + 1 == hosts_ ? 0 : link.active_head + 1;
            --link.active_count;
            Link &from = links_[in];
            const int out = number - hosts_;
            frame = from.head[out];
            from.head[out] = frames_[frame].next;
            if (from.head[out] >= 0) activate(link, in);
            link.current_in = in;
        }
        --link.credit;
        link.busy = true;
        const i64 end = now_ + (frames_[frame].size + OVERHEAD) * BYTE;
        at(end, SENT, number);
        at(end + PROPAGATION, ARRIVED, number, frame);
    }
    void activate(Link &link, int in) {
        int place = link.active_head + link.active_count++;
        if (place >= hosts_) place -= hosts_;
        link.active[place] = in;
    }
    void arrived(int number, int frame) {
        Link &link = links_[number];
        frames_[frame].next = -1;
        if (number >= hosts_) {
            if (link.sink_head < 0) {
                link.sink_head = link.sink_tail = frame;
                drain(number);
            } else {
                frames_[link.sink_tail].next = frame;
                link.sink_tail = frame;
            }
            return;
        }
        const int out = frames_[frame].to;
        const bool idle = link.head[out] < 0;
        if (idle) link.head[out] = frame;
        else frames_[link.tail[out]].next = frame;
        link.tail[out] = frame;
        if (idle) activate(links_[hosts_ + out], number);
        if (!links_[hosts_ + out].busy) start(hosts_ + out);
    }
    int hosts_;
    std::vector<Link> links_;
    std::vector<Frame> frames_;
    std::priority_queue<Event, std::vector<Event>, Later> events_;
    i64 now_ = 0, number_ = 0, delivered_ = 0, handled_ = 0, random_ = 8;
    int free_ = 0;
};
} // namespace

int main(int, char **argv) {
    Fabric fabric(std::atoi(argv[1]), std::atoi(argv[2]), std::atoll(argv[3]));
    const std::clock_t began = std::clock();
    fabric.run();
    const double took = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
    std::printf("%.6f %lld %lld %lld\n", took, static_cast<long long>(fabric.delivered()),
                static_cast<long long>(fabric.now()), static_cast<long long>(fabric.handled()));
}
