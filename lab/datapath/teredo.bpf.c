// The kernel data path: data between trusted peers go in and out of the tunnel without a program being woken.
//
// `encapsulate` is on the Teredo interface's way out, `decapsulate` on the way in of each interface that peers are behind.
// They take only what the state machine would carry unchanged; everything else goes on to it as if they were not here.
//
// No header of the system is included: what follows is all of the kernel's interface that is used.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

struct nexthop {
	u32 family, host, rest[3];
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*ktime_get_ns)(void) = (void *)5;
static long (*skb_store_bytes)(struct __sk_buff *, u32 at, const void *from, u32 size, u64 flags) = (void *)9;
static long (*redirect)(u32 interface, u64 flags) = (void *)23;
static long (*skb_load_bytes)(const struct __sk_buff *, u32 at, void *to, u32 size) = (void *)26;
static s64 (*csum_diff)(const void *from, u32 from_size, const void *to, u32 to_size, u32 seed) = (void *)28;
static long (*skb_change_tail)(struct __sk_buff *, u32 length, u64 flags) = (void *)38;
static long (*skb_pull_data)(struct __sk_buff *, u32 length) = (void *)39;
static long (*skb_change_head)(struct __sk_buff *, u32 more, u64 flags) = (void *)43;
static long (*skb_adjust_room)(struct __sk_buff *, int difference, u32 mode, u64 flags) = (void *)50;
static long (*redirect_neigh)(u32 interface, struct nexthop *, int size, u64 flags) = (void *)152;

enum { NEXT = -1, DROP = 2 };
enum { AT_MAC = 1 };
enum { FIXED_GSO = 1 << 0, ENCAP_IPV4 = 1 << 1, ENCAP_UDP = 1 << 4, DECAP_IPV6 = 1 << 8 };
enum { INGRESS = 1, TO_THIS_HOST = 0, AF_INET = 2, ALREADY = -114 };

#define HTONS(x) ((u16)((x) << 8 | (x) >> 8))
#define HTONL(x) __builtin_bswap32(x)
enum { IPV4 = HTONS(0x0800), IPV6 = HTONS(0x86DD) };
enum { TCP = 6, UDP = 17, ICMPV6 = 58, ROUTER_SOLICITATION = 133, ROUTER_ADVERTISEMENT = 134 };

struct ipv4 {
	u8 version_length, tos;
	u16 length, id, fragment;
	u8 ttl, protocol;
	u16 check;
	u32 source, destination;
} __attribute__((packed, aligned(2)));

struct udp {
	u16 source, destination, length, check;
} __attribute__((packed, aligned(2)));

struct ipv6 {
	u32 version_flow;
	u16 length;
	u8 next, hop_limit;
	u8 source[16], destination[16];
} __attribute__((packed, aligned(2)));

struct outer {
	struct ipv4 ip;
	struct udp udp;
};

enum { ETHERNET = 14, OUTER = sizeof(struct outer), HEADER = sizeof(struct ipv6), LEAST = 8, MOST = 2047 };

// What userspace and this program share; lab/datapath/kernel.py has the same layouts.

struct settings {
	u32 interface; // the Teredo interface
	u16 port;      // the service port
	u8 ttl;
};

struct entry {
	u8 peer[16];
	u32 host, source, gateway, mapping; // of IPv4: where data go, from where, by whom; and where the peer's come from
	u16 port, source_port, mapping_port, id;
	u32 interface, mtu;
	u32 wire;  // whoever is at the other end, packets are cut and complete when they leave the interface
	u32 uncut; // what came last was encapsulated in this very kernel, and met no wire
	u64 heard, spoken, received, sent;
	u64 left; // when something large was last left to userspace
	u64 left_out, left_in; // when UDP was
	u64 due; // when UDP would be sent next if none were sent closer together than in a flood
};

enum { SLOTS = 8192 };

struct map {
	u32 type, key, value, entries, flags;
};

enum { HASH = 1, ARRAY = 2, LPM_TRIE = 11, NO_PREALLOC = 1 << 0, MMAPABLE = 1 << 10 };

struct map settings SECTION("maps") = {ARRAY, 4, sizeof(struct settings), 1, MMAPABLE};
struct map entries SECTION("maps") = {ARRAY, 4, sizeof(struct entry), SLOTS, MMAPABLE};
struct map moved SECTION("maps") = {ARRAY, 4, SLOTS, 1, MMAPABLE}; // by slot, whether counters or times have changed
struct map slots SECTION("maps") = {HASH, 16, 4, SLOTS, 0};
struct map inside SECTION("maps") = {LPM_TRIE, 20, 1, 256, NO_PREALLOC};

const char _license[] SECTION("license") = "Apache-2.0";
const char _source[] SECTION("source") = SOURCE;

static const s64 VALIDITY = 30000000000; // RFC 4380 section 5.2.4
static const s64 SETTLING = 50000000; // by then userspace has done with what was left to it
static const s64 APART = 32000, BURST = 2000000; // datagrams closer together than that for so long are a flood

// How long ago something was: less than nothing, if another processor has noted it since this one looked at the clock.
INLINE s64 age(u64 now, u64 then)
{
	return (s64)(now - then);
}

INLINE u16 fold(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)((sum & 0xffff) + (sum >> 16));
}

// The sum over the `length` bytes from `at` to a packet's end, `MOST` of them at most, all of them in reach; or FAULT.
// Each piece's place follows from `length` alone: else the kernel's verifier would try all combinations of pieces.
static const u64 FAULT = ~0ull;
INLINE u64 sum_to_end(struct __sk_buff *skb, u32 at, u32 length)
{
	u8 *start = (u8 *)(u64)skb->data + at, *end = (u8 *)(u64)skb->data_end;
	u32 sum = 0, rest = 0;
#define PIECE(size, bit)                                                 \
	if (length & (bit)) {                                            \
		u8 *piece = start + (length & MOST & ~(2 * (bit)-1)) + ((bit) - (size)); \
		if (piece + (size) > end)                                \
			return FAULT;                                    \
		sum = (u32)csum_diff(0, 0, piece, size, sum);            \
	}
	PIECE(512, 1024)
	if (length & 1024) {
		u8 *piece = start;
		if (piece + 512 > end)
			return FAULT;
		sum = (u32)csum_diff(0, 0, piece, 512, sum);
	}
	PIECE(512, 512)
	PIECE(256, 256) PIECE(128, 128) PIECE(64, 64) PIECE(32, 32) PIECE(16, 16) PIECE(8, 8) PIECE(4, 4)
#undef PIECE
	if (length & 3 && skb_load_bytes(skb, at + (length & MOST & ~3), &rest, length & 3))
		return FAULT;
	return (u64)sum + rest;
}

INLINE u64 pseudo_sum(const struct ipv6 *ipv6)
{
	return (u64)(u32)csum_diff(0, 0, ipv6->source, 32, 0) + ipv6->length + HTONS((u16)ipv6->next);
}

INLINE u64 pseudo_sum_ipv4(const struct outer *outer)
{
	return (u64)outer->ip.source + outer->ip.destination + HTONS(UDP) + outer->udp.length;
}

INLINE u16 ipv4_sum(const struct ipv4 *ip)
{
	const u16 *half = (const u16 *)ip;
	u64 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	return fold(sum);
}

// The entry of a peer that may be sent to and heard now, or none.
INLINE struct entry *trusted(const u8 *address, u64 now, u32 *at)
{
	u32 *slot = map_lookup(&slots, address);
	if (!slot)
		return 0;
	*at = *slot;
	struct entry *entry = map_lookup(&entries, at);
	if (!entry || age(now, entry->heard) >= VALIDITY)
		return 0;
	const u32 *one = (const u32 *)entry->peer, *other = (const u32 *)address;
	return one[0] == other[0] && one[1] == other[1] && one[2] == other[2] && one[3] == other[3] ? entry : 0;
}

INLINE int is_inside(const u8 *address)
{
	struct {
		u32 length, address[4];
	} key = {128, {}};
	__builtin_memcpy(key.address, address, 16);
	u8 *answer = map_lookup(&inside, &key);
	return answer && *answer;
}

// Whether a packet is data that goes unchanged: see lab.teredo.packet.is_plain; this is narrower.
INLINE int is_plain(const struct ipv6 *ipv6, const u8 *payload)
{
	return (*(const u8 *)ipv6 >> 4) == 6 && ipv6->hop_limit &&
	       (ipv6->next == TCP || ipv6->next == UDP ||
		(ipv6->next == ICMPV6 && payload[0] != ROUTER_SOLICITATION && payload[0] != ROUTER_ADVERTISEMENT));
}

// Whether UDP is left to userspace: in a flood, of which it takes many at a time, so that each costs less; and what comes
// after one, which would overtake it, until there is a pause.
INLINE int is_left(u64 *left, int flood, u64 now)
{
	if (!flood && age(now, *left) >= SETTLING)
		return 0;
	*left = now;
	return 1;
}

// Whether UDP goes to a peer in a flood, now that there is one packet more of it.
INLINE int is_flood(struct entry *entry, u64 now)
{
	s64 ahead = age(entry->due, now);
	ahead = (ahead < 0 ? 0 : ahead) + APART;
	int flood = ahead > BURST;
	entry->due = now + (flood ? BURST : ahead);
	return flood;
}

INLINE void tell(u32 slot)
{
	u32 zero = 0;
	u8 *flags = map_lookup(&moved, &zero);
	if (flags && slot < SLOTS && !flags[slot])
		flags[slot] = 1;
}

// Where the checksum of a plain packet's payload is.
INLINE u32 check_at(u8 next)
{
	return HEADER + (next == TCP ? 16 : next == UDP ? 6 : 2);
}

// Have the kernel take the checksum for what it is: it gives up completing one whose beginning is cut off.
enum { CUT = 48 };
INLINE int forget_partial(struct __sk_buff *skb, u32 length)
{
	u8 head[CUT];
	if (skb_load_bytes(skb, 0, head, CUT))
		return -1;
	if (length < HEADER + CUT && skb_change_tail(skb, HEADER + CUT, 0))
		return -1;
	if (skb_adjust_room(skb, -CUT, AT_MAC, 0) || skb_adjust_room(skb, CUT, AT_MAC, 0) ||
	    skb_store_bytes(skb, 0, head, CUT, 0))
		return -1;
	return length < HEADER + CUT ? (int)skb_change_tail(skb, length, 0) : 0;
}

SECTION("tcx/egress") int encapsulate(struct __sk_buff *skb)
{
	u32 zero = 0, slot = 0, length = skb->len, large = skb->gso_size;
	struct settings *here = map_lookup(&settings, &zero);
	if (!here || skb->protocol != IPV6 || length < HEADER + LEAST)
		return NEXT;
	if (!large && (length > MOST || skb_pull_data(skb, length)))
		return NEXT;
	u8 *data = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
	if (data + HEADER + LEAST > end)
		return NEXT;
	struct ipv6 *ipv6 = (struct ipv6 *)data;
	u8 next = ipv6->next;
	if (!is_plain(ipv6, data + HEADER) || HEADER + HTONS(ipv6->length) != length)
		return NEXT;
	u64 now = ktime_get_ns();
	struct entry *entry = trusted(ipv6->destination, now, &slot);
	if (!entry || !is_inside(ipv6->source))
		return NEXT;

	u32 segments = 1;
	struct outer outer = {
		.ip = {.version_length = 0x45, .length = HTONS((u16)(length + OUTER)), .ttl = here->ttl, .protocol = UDP,
		       .source = entry->source, .destination = entry->host},
		.udp = {.source = entry->source_port, .destination = entry->port, .length = HTONS((u16)(length + 8))},
	};
	if (next == TCP && length < HEADER + 20)
		return NEXT;
	u32 beyond = HEADER; // bytes of headers
	if (next == TCP) {
		u8 words = 0;
		if (skb_load_bytes(skb, HEADER + 12, &words, 1))
			return NEXT;
		beyond += (words >> 4) * 4;
	}
	if (large) {
		if (next == UDP)
			entry->left_out = now;
		if (next != TCP || beyond + large + OUTER > entry->mtu || length + OUTER > 65535)
			return NEXT;
		if (!entry->wire && !entry->uncut) { // userspace, and nothing else, has it cut before a program reads it
			entry->left = now;
			return NEXT;
		}
		if (skb->gso_segs > 1)
			segments = skb->gso_segs;
		// No checksum, as IPv4 allows: the kernel that cuts would give all pieces the same.
	} else {
		if (length + OUTER > entry->mtu)
			return NEXT;
		if (next == TCP && length > beyond && age(now, entry->left) < SETTLING)
			return NEXT; // what is large goes through userspace: this would overtake it
		if (next == UDP && is_left(&entry->left_out, is_flood(entry, now), now))
			return NEXT;
		u64 pseudo = pseudo_sum(ipv6), header = (u32)csum_diff(0, 0, ipv6, HEADER, 0);
		u64 sum = sum_to_end(skb, HEADER, length - HEADER);
		u16 check = 0, partial = fold(pseudo);
		u32 at = check_at(next);
		if (sum == FAULT || skb_load_bytes(skb, at, &check, 2) || (next == UDP && !check))
			return NEXT;
		if (check == partial) { // or it happens to be so, and stays what it is
			u16 whole = ~fold(sum);
			if (next == UDP && !whole)
				whole = 0xffff;
			if (skb_store_bytes(skb, at, &whole, 2, 0))
				return NEXT;
			sum += (u16)~check + (u64)whole;
			if (forget_partial(skb, length))
				return DROP;
		}
		sum += header + pseudo_sum_ipv4(&outer) + outer.udp.source + outer.udp.destination + outer.udp.length;
		outer.udp.check = ~fold(sum);
		if (!outer.udp.check)
			outer.udp.check = 0xffff;
	}
	// Each packet has another identification, since they may be fragmented (RFC 6864 section 4.2).
	outer.ip.id = entry->id + __sync_fetch_and_add(&entry->sent, segments);
	outer.ip.id = HTONS(outer.ip.id);
	outer.ip.check = ~ipv4_sum(&outer.ip);
	entry->spoken = now;
	tell(slot);
	struct nexthop nexthop = {AF_INET, entry->gateway, {}};
	u32 interface = entry->interface;
	if (skb_adjust_room(skb, OUTER, AT_MAC, ENCAP_IPV4 | ENCAP_UDP | FIXED_GSO) ||
	    skb_store_bytes(skb, 0, &outer, OUTER, 0) || skb_change_head(skb, ETHERNET, 0)) // which the neighbour fills in
		return DROP;
	return (int)redirect_neigh(interface, &nexthop, sizeof nexthop, 0);
}

struct frame {
	u8 ethernet[ETHERNET];
	struct outer outer;
	struct ipv6 ipv6;
	u8 payload[LEAST];
} __attribute__((packed, aligned(2)));

SECTION("tcx/ingress") int decapsulate(struct __sk_buff *skb)
{
	u32 zero = 0, slot = 0, large = skb->gso_size;
	struct settings *here = map_lookup(&settings, &zero);
	if (!here || skb->protocol != IPV4 || skb->pkt_type != TO_THIS_HOST || skb->vlan_present)
		return NEXT;
	if (skb->len < sizeof(struct frame))
		return NEXT;
	u8 *data = (u8 *)(u64)skb->data, *end = (u8 *)(u64)skb->data_end;
	if (data + sizeof(struct frame) > end) {
		if (skb_pull_data(skb, sizeof(struct frame)))
			return NEXT;
		data = (u8 *)(u64)skb->data, end = (u8 *)(u64)skb->data_end;
		if (data + sizeof(struct frame) > end)
			return NEXT;
	}
	struct frame *frame = (struct frame *)data;
	struct ipv4 *ip = &frame->outer.ip;
	struct udp *udp = &frame->outer.udp;
	u32 length = skb->len - ETHERNET - OUTER; // of the IPv6 packet
	u32 many = large && frame->ipv6.next == UDP; // more than one of them
	if (ip->version_length != 0x45 || ip->fragment & HTONS(0x3fff) || ip->protocol != UDP ||
	    HTONS(ip->length) != length + OUTER || HTONS(udp->length) != length + 8 ||
	    (!many && HTONS(frame->ipv6.length) + HEADER != length) || !is_plain(&frame->ipv6, frame->payload) ||
	    ipv4_sum(ip) != 0xffff)
		return NEXT;
	if (large ? frame->ipv6.next == ICMPV6 : length + 8 > MOST)
		return NEXT;
	u64 now = ktime_get_ns();
	struct entry *entry = trusted(frame->ipv6.source, now, &slot);
	if (!entry || entry->mapping != ip->source || entry->mapping_port != udp->source ||
	    entry->interface != skb->ifindex || entry->source != ip->destination ||
	    (here->port != udp->destination && entry->source_port != udp->destination) ||
	    !is_inside(frame->ipv6.destination))
		return NEXT;
	if (frame->ipv6.next == UDP && is_left(&entry->left_in, large, now))
		return NEXT;

	u32 segments = 1, uncut = 1, stale = 0;
	if (large) {
		if (skb->gso_segs > 1)
			segments = skb->gso_segs;
	} else {
		if (skb_pull_data(skb, skb->len))
			return NEXT;
		data = (u8 *)(u64)skb->data, end = (u8 *)(u64)skb->data_end;
		if (data + sizeof(struct frame) > end)
			return NEXT;
		frame = (struct frame *)data;
		u16 check = frame->outer.udp.check;
		if (check) {
			u64 pseudo = pseudo_sum_ipv4(&frame->outer);
			stale = check == fold(pseudo); // a socket of this machine has left it to be completed
			u64 sum = stale ? 0 : sum_to_end(skb, ETHERNET + sizeof(struct ipv4), length + 8);
			if (!stale && (sum == FAULT || fold(pseudo + sum) != 0xffff))
				return NEXT;
		}
		// Nobody can encapsulate it once more if a kernel has, and it met no wire since.
		uncut = skb_adjust_room(skb, 0, AT_MAC, ENCAP_IPV4 | ENCAP_UDP | FIXED_GSO) == ALREADY;
	}
	if (stale) { // the kernel shall not complete a checksum of what is gone: see forget_partial
		u8 head[8];
		if (skb_load_bytes(skb, ETHERNET + OUTER, head, sizeof head))
			return NEXT;
		if (skb_adjust_room(skb, -(int)(OUTER + sizeof head), AT_MAC, DECAP_IPV6 | FIXED_GSO) ||
		    skb_adjust_room(skb, sizeof head, AT_MAC, 0) || skb_store_bytes(skb, ETHERNET, head, sizeof head, 0))
			return DROP;
	} else if (skb_adjust_room(skb, -(int)OUTER, AT_MAC, DECAP_IPV6 | FIXED_GSO)) {
		return NEXT;
	}
	if (entry->uncut != uncut)
		entry->uncut = uncut;
	entry->heard = now;
	__sync_fetch_and_add(&entry->received, segments);
	tell(slot);
	return (int)redirect(here->interface, INGRESS);
}
