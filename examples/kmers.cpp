// Counts the canonical k-mers of sequencing reads (FASTA or FASTQ, plain or gzip).
//
//   kmers [-k 21] [-o counts] READS…
//
// The driver reads the files in blocks, as a lazy range; one task counts the k-mers of a block, in parts by a hash of
// the k-mer; others take the parts out, and a reduce over each part merges the counts. No task puts anything: so
// whatever is lost with a rank can be made again. Writes counts.tsv, and counts.h5 with the datasets /kmers (2 bits a
// base), /counts, /histogram (how many distinct k-mers occur n times).
#include <hdf5.h>
#include <zlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <mobula/mobula.hpp>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr std::size_t kParts = 8;  // by hash; each is merged by itself
constexpr std::size_t kBlockBases = 1 << 18;

struct KmerCount {
  std::uint64_t kmer;
  std::uint64_t count;
};
using Part = std::vector<KmerCount>;  // ascending by k-mer

struct Block {
  std::string bases;  // reads, each ended by a newline
  std::uint64_t reads = 0;
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& bases& reads;
  }
};

std::uint64_t hash(std::uint64_t x) {
  x = (x ^ (x >> 31)) * 0x7FB5'D329'728E'A185ULL;
  x = (x ^ (x >> 27)) * 0x81DA'DEF4'BC2D'D44DULL;
  return x ^ (x >> 33);
}

// A = 0, C = 1, G = 2, T = 3: the complement of x is 3 - x. 4: anything else, which no k-mer spans.
int code_of(char base) {
  switch (base) {
    case 'A':
    case 'a': return 0;
    case 'C':
    case 'c': return 1;
    case 'G':
    case 'g': return 2;
    case 'T':
    case 't': return 3;
    default: return 4;
  }
}

std::string text_of(std::uint64_t kmer, int k) {
  std::string text(static_cast<std::size_t>(k), 'A');
  for (int i = k - 1; i >= 0; --i, kmer >>= 2) text[static_cast<std::size_t>(i)] = "ACGT"[kmer & 3];
  return text;
}

// The counts of a block, one part behind the other.
Part count_block(const Block& block, int k) {
  const std::uint64_t mask = k == 32 ? ~std::uint64_t{0} : (std::uint64_t{1} << (2 * k)) - 1;
  std::vector<std::vector<std::uint64_t>> found(kParts);
  std::uint64_t forward = 0;
  std::uint64_t backward = 0;  // the reverse complement
  int length = 0;
  for (const char base : block.bases) {
    const int code = code_of(base);
    if (code == 4) {
      length = 0;
      continue;
    }
    forward = ((forward << 2) | static_cast<std::uint64_t>(code)) & mask;
    backward = (backward >> 2) | (static_cast<std::uint64_t>(3 - code) << (2 * (k - 1)));
    if (++length < k) continue;
    const std::uint64_t canonical = std::min(forward, backward);
    found[hash(canonical) % kParts].push_back(canonical);
  }
  Part counts;
  for (auto& kmers : found) {
    std::sort(kmers.begin(), kmers.end());
    for (const std::uint64_t kmer : kmers) {
      if (counts.empty() || counts.back().kmer != kmer) counts.push_back({kmer, 0});
      ++counts.back().count;
    }
  }
  return counts;
}

Part part_of(std::span<const KmerCount> counts, std::size_t part) {
  const auto part_in = [](const KmerCount& entry) { return hash(entry.kmer) % kParts; };
  const auto begin = std::ranges::lower_bound(counts, part, std::less<>(), part_in);
  return {begin, std::ranges::upper_bound(counts, part, std::less<>(), part_in)};
}

Part merge(const Part& a, const Part& b) {
  Part merged;
  merged.reserve(a.size() + b.size());
  auto x = a.begin();
  auto y = b.begin();
  while (x != a.end() || y != b.end()) {
    if (y == b.end() || (x != a.end() && x->kmer < y->kmer)) {
      merged.push_back(*x++);
    } else if (x == a.end() || y->kmer < x->kmer) {
      merged.push_back(*y++);
    } else {
      merged.push_back({x->kmer, x->count + y->count});
      ++x;
      ++y;
    }
  }
  return merged;
}

// Lines of a file, plain or gzip. Errors name the file and the line.
class Lines {
 public:
  explicit Lines(std::string path) : path_(std::move(path)), file_(gzopen(path_.c_str(), "rb"), gzclose) {
    if (!file_) throw std::runtime_error(path_ + ": can't be opened: " + std::strerror(errno));
    gzbuffer(file_.get(), 1 << 18);
  }
  bool next(std::string& line) {
    line.clear();
    char part[4096];
    while (gzgets(file_.get(), part, sizeof part) != nullptr) {
      line += part;
      if (line.back() == '\n') break;
    }
    if (!line.empty()) ++number_;
    if (line.empty() || line.back() != '\n') {  // the end of the file, or of what can be read of it
      int error = Z_OK;
      const char* message = gzerror(file_.get(), &error);
      if (error == Z_BUF_ERROR) fail("the gzip stream is truncated");
      if (error != Z_OK && error != Z_STREAM_END) fail(std::string("the gzip stream is damaged: ") + message);
    }
    if (line.empty()) return false;
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    return true;
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error(path_ + ", line " + std::to_string(number_) + ": " + what);
  }

 private:
  std::string path_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
  std::uint64_t number_ = 0;
};

// The reads of all files as blocks, one after the other: a single-pass range that is read while there is room for
// tasks.
class Blocks {
 public:
  explicit Blocks(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  struct Sentinel {};
  class Iterator {
   public:
    using value_type = Block;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(Blocks* all) : all_(all) {}
    const Block& operator*() const { return all_->block_; }
    Iterator& operator++() {
      all_->read();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(Sentinel) const { return all_->block_.reads == 0; }

   private:
    Blocks* all_;
  };
  Iterator begin() {
    read();
    return Iterator(this);
  }
  Sentinel end() const { return {}; }
  std::uint64_t reads() const { return reads_; }
  std::function<void(std::uint64_t)> progress;

 private:
  void read() {
    block_ = {};
    while (block_.bases.size() < kBlockBases) {
      if (!lines_) {
        if (next_ == paths_.size()) break;
        lines_ = std::make_unique<Lines>(paths_[next_++]);
        pending_ = lines_->next(line_);
        if (pending_ && line_[0] != '@' && line_[0] != '>') lines_->fail("neither FASTA ('>') nor FASTQ ('@')");
        if (!pending_) lines_->fail("the file is empty");
      }
      if (!pending_) {
        lines_.reset();
        continue;
      }
      if (line_.empty()) {
        pending_ = lines_->next(line_);
      } else if (line_[0] == '@') {
        read_fastq();
      } else if (line_[0] == '>') {
        read_fasta();
      } else {
        lines_->fail("expected the header of a read, found '" + line_.substr(0, 20) + "'");
      }
    }
    reads_ += block_.reads;
    if (progress && block_.reads != 0) progress(reads_);
  }

  void read_fastq() {
    std::string bases;
    std::string plus;
    std::string quality;
    if (!lines_->next(bases)) lines_->fail("the read ends after its header");
    if (!lines_->next(plus) || plus.empty() || plus[0] != '+') lines_->fail("expected the '+' line of a read");
    if (!lines_->next(quality)) lines_->fail("the read has no qualities");
    if (quality.size() != bases.size()) {
      lines_->fail("the read has " + std::to_string(bases.size()) + " bases and " + std::to_string(quality.size()) +
                   " qualities");
    }
    add(bases);
    pending_ = lines_->next(line_);
  }

  void read_fasta() {
    bool any = false;
    while ((pending_ = lines_->next(line_)) && (line_.empty() || line_[0] != '>')) {
      check(line_);
      block_.bases += line_;
      any = true;
    }
    if (!any) lines_->fail("the sequence is empty");
    block_.bases += '\n';
    ++block_.reads;
  }

  void check(const std::string& bases) const {
    for (const char c : bases) {
      if (std::isalpha(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '*' && c != '.') {
        lines_->fail(std::string("'") + c + "' is not a base");
      }
    }
  }
  void add(const std::string& bases) {
    check(bases);
    block_.bases += bases;
    block_.bases += '\n';
    ++block_.reads;
  }

  std::vector<std::string> paths_;
  std::size_t next_ = 0;
  std::unique_ptr<Lines> lines_;
  std::string line_;
  bool pending_ = false;
  Block block_;
  std::uint64_t reads_ = 0;
};

void write_dataset(hid_t file, const char* name, std::span<const std::uint64_t> values) {
  const hsize_t size = values.size();
  const hid_t space = H5Screate_simple(1, &size, nullptr);
  const hid_t set = H5Dcreate2(file, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  const herr_t status = set < 0 ? -1 : H5Dwrite(set, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  if (set >= 0) H5Dclose(set);
  H5Sclose(space);
  if (status < 0) throw std::runtime_error(std::string("can't write the dataset ") + name);
}

int count(const std::vector<std::string>& paths, int k, const std::string& output) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [start] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  Blocks blocks(paths);
  auto last_shown = start;
  blocks.progress = [&](std::uint64_t reads) {
    if (Clock::now() - last_shown < std::chrono::seconds(1)) return;
    last_shown = Clock::now();
    std::cerr << "read " << reads << " reads, " << static_cast<std::uint64_t>(static_cast<double>(reads) / elapsed())
              << " reads/s\n";
  };
  const auto counted = mobula::remote<count_block>.map(blocks, mobula::same(k));
  std::vector<std::vector<mobula::Ref<Part>>> by_part(kParts);
  for (const auto& block : counted) {
    for (std::size_t p = 0; p < kParts; ++p) by_part[p].push_back(mobula::remote<part_of>(block, p));
  }
  Part all;
  for (auto& parts : by_part) {
    const Part part = mobula::get(mobula::reduce<merge>(parts));
    all.insert(all.end(), part.begin(), part.end());
    parts.clear();
  }
  std::sort(all.begin(), all.end(), [](const KmerCount& a, const KmerCount& b) { return a.kmer < b.kmer; });

  std::map<std::uint64_t, std::uint64_t> by_count;
  std::vector<std::uint64_t> kmers;
  std::vector<std::uint64_t> counts;
  std::uint64_t total = 0;
  std::ofstream table(output + ".tsv");
  for (const KmerCount& entry : all) {
    kmers.push_back(entry.kmer);
    counts.push_back(entry.count);
    ++by_count[entry.count];
    total += entry.count;
    table << text_of(entry.kmer, k) << '\t' << entry.count << '\n';
  }
  if (!table.flush()) throw std::runtime_error("can't write " + output + ".tsv");
  std::vector<std::uint64_t> histogram(by_count.empty() ? 1 : by_count.rbegin()->first + 1, 0);
  std::ofstream histogram_table(output + ".histogram.tsv");
  for (const auto& [n, distinct] : by_count) {
    histogram[n] = distinct;
    histogram_table << n << ' ' << distinct << '\n';
  }
  const hid_t file = H5Fcreate((output + ".h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  if (file < 0) throw std::runtime_error("can't write " + output + ".h5");
  write_dataset(file, "/kmers", kmers);
  write_dataset(file, "/counts", counts);
  write_dataset(file, "/histogram", histogram);
  H5Fclose(file);

  const auto most = std::min<std::size_t>(10, all.size());
  std::partial_sort(
      all.begin(), all.begin() + static_cast<std::ptrdiff_t>(most), all.end(),
      [](const KmerCount& a, const KmerCount& b) { return a.count != b.count ? a.count > b.count : a.kmer < b.kmer; });
  std::cout << blocks.reads() << " reads, " << total << " k-mers, " << kmers.size() << " distinct (k = " << k << "), "
            << counted.size() << " blocks, " << mobula::cluster().slots << " slots\n"
            << elapsed() << " s, " << static_cast<std::uint64_t>(static_cast<double>(blocks.reads()) / elapsed())
            << " reads/s\n"
            << "most frequent:\n";
  for (std::size_t i = 0; i < most; ++i) std::cout << "  " << text_of(all[i].kmer, k) << ' ' << all[i].count << '\n';
  std::cout << "wrote " << output << ".tsv, " << output << ".histogram.tsv, " << output << ".h5\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&]() -> int {
    CLI::App app("Counts the canonical k-mers of sequencing reads");
    int k = 21;
    std::string output = "counts";
    std::vector<std::string> paths;
    app.add_option("-k", k, "Length of the k-mers")->check(CLI::Range(1, 32))->capture_default_str();
    app.add_option("-o,--output", output, "Prefix of the files that are written")->capture_default_str();
    app.add_option("reads", paths, "FASTA or FASTQ files, plain or gzip")->required();
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
      return app.exit(e);
    }
    try {
      return count(paths, k, output);
    } catch (const std::runtime_error& e) {
      std::cerr << "kmers: " << e.what() << '\n';
      return 1;
    }
  });
}
