#include "engine/host_bytes.h"

#include <cstdint>
#include <cstring>

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace goldfinch {

void CopyPastCaches(void* to, const void* from, std::size_t bytes) {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
#ifdef __SSE2__
  // Only whole lines go to memory without being read first.
  constexpr std::size_t kLineBytes = 64, kAheadBytes = 4096;
  const std::size_t head = -reinterpret_cast<std::uintptr_t>(out) % kLineBytes;
  if (bytes > head + kLineBytes) {
    std::memcpy(out, in, head);
    out += head, in += head, bytes -= head;
    for (; bytes >= kLineBytes;
         out += kLineBytes, in += kLineBytes, bytes -= kLineBytes) {
      if (bytes > kAheadBytes) _mm_prefetch(in + kAheadBytes, _MM_HINT_T0);
      const auto* parts = reinterpret_cast<const __m128i*>(in);
      auto* line = reinterpret_cast<__m128i*>(out);
      const __m128i a = _mm_loadu_si128(parts), b = _mm_loadu_si128(parts + 1),
                    c = _mm_loadu_si128(parts + 2), d = _mm_loadu_si128(parts + 3);
      _mm_stream_si128(line, a);
      _mm_stream_si128(line + 1, b);
      _mm_stream_si128(line + 2, c);
      _mm_stream_si128(line + 3, d);
    }
    _mm_sfence();
  }
#endif
  std::memcpy(out, in, bytes);
}

void ReuseLargeBuffers() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
#endif
}

}  // namespace goldfinch
