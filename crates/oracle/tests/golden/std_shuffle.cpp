// Prints what std::shuffle over std::mt19937(524287) does to 0..n, for the sizes the test reads:
// the size, the first and last 16 places and an FNV-1a hash of all of them (as little-endian u32).
// Build and run: g++ -O2 -std=c++17 std_shuffle.cpp -o std_shuffle && ./std_shuffle > std_shuffle.txt
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

int main() {
  const uint32_t sizes[] = {1, 2, 3, 4, 5, 10, 31, 100, 1000, 6000, 65535, 65536, 65537, 100000, 1281167};
  for (uint32_t n : sizes) {
    std::vector<uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0u);
    std::mt19937 generator(524287);
    std::shuffle(order.begin(), order.end(), generator);
    uint64_t hash = 0xcbf29ce484222325ull;
    for (uint32_t place : order)
      for (int byte = 0; byte < 4; ++byte) {
        hash ^= (place >> (8 * byte)) & 0xff;
        hash *= 0x100000001b3ull;
      }
    std::printf("%u %016llx", n, (unsigned long long)hash);
    for (uint32_t i = 0; i < std::min(n, 16u); ++i) std::printf(" %u", order[i]);
    std::printf(" |");
    for (uint32_t i = n - std::min(n, 16u); i < n; ++i) std::printf(" %u", order[i]);
    std::printf("\n");
  }
}
