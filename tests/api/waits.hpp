// Every way of waiting for a value, and everyone who may wait for it.
#pragma once

#include <future>
#include <mobula/mobula.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace waits {

using Value = std::vector<char>;

enum class How { get, view, wait, completed, dependent };
enum class Who { driver, task, method, thread_of_driver, thread_of_task, thread_of_method };

inline std::size_t size_of(bool large) { return large ? 100'000 : 10; }

inline std::size_t count(const Value& value) { return value.size(); }

inline std::string read(How how, const mobula::Ref<Value>& ref) {
  try {
    const std::vector box{ref};
    if (how == How::wait && mobula::wait(box).ready.size() != 1) return "wait returned without it";
    if (how == How::completed) {
      std::size_t n = 0;
      for (const auto& done : mobula::as_completed(box)) n += done ? 1 : 0;
      if (n != 1) return "as_completed gave another number";
    }
    std::size_t n = 0;
    if (how == How::view) {
      n = std::span<const char>(mobula::view(ref)).size();
    } else if (how == How::dependent) {
      n = mobula::get(mobula::remote<count>(ref));
    } else {
      n = mobula::get(ref).size();
    }
    return std::to_string(n);
  } catch (const std::domain_error&) {
    return "failed";
  } catch (const mobula::TimedOut&) {
    return "timed out";
  } catch (const mobula::Cancelled&) {
    return "cancelled";
  } catch (const mobula::WorkerLost&) {
    return "lost";
  } catch (const std::exception& e) {
    return e.what();
  }
}

inline std::future<std::string> read_by_thread(How how, const mobula::Ref<Value>& ref) {
  return std::async(std::launch::async, [how, ref] { return read(how, ref); });
}

inline std::string read_as(Who who, How how, const mobula::Ref<Value>& ref) {
  const bool is_thread = who == Who::thread_of_task || who == Who::thread_of_method;
  return is_thread ? read_by_thread(how, ref).get() : read(how, ref);
}

}  // namespace waits
